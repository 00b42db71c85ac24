"""What is kept: recordings and counters."""
