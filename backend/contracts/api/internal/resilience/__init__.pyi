"""The HTTP API for policies, and the dashboard (extra `api`)."""
