"""Interfaces for people who operate a service, not for its users."""
