"""Policy: what a profile allows of a line."""
