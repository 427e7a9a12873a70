"""The HTTP API for durable jobs (extra `api`)."""
