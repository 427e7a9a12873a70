"""Where state is kept: Redis."""
