"""The layer that touches the outside; nothing above it is imported here."""
