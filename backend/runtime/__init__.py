"""Settings, wiring and background jobs of a server."""
