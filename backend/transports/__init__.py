"""The fronts: requests over sockets and HTTP, passed to the use cases and answered."""
