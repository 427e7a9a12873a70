"""The `holdfast` command (extra `cli`)."""
