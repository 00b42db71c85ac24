"""Where commands run: processes, their streams and their end."""
