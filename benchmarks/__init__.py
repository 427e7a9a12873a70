"""What holdfast costs, beside its peers: `python -m benchmarks`."""
