"""The agent of a host: commands that arrive over Redis, through the same gate as any other."""
