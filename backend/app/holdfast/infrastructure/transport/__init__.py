"""Policies applied to a transport."""
