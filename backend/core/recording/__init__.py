"""What an execution writes: messages, stored lines, redaction, readers."""
