"""HTTP interfaces of the library."""
