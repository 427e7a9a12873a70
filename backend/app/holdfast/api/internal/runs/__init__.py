"""The HTTP API for graphs of orders, and a worker that executes orders of other machines (extra `api`)."""
