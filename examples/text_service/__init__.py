"""A small text service over a flaky model: what a service looks like that holds."""
