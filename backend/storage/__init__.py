"""What is stored: the database, recordings, keys and counters."""
