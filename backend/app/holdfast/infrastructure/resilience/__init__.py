"""Policies for one call, and what they share."""
