"""What resilience looks like from outside: exporters, an inventory, monitoring and a feed of events."""
