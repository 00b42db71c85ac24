"""The recording of an execution: its messages, how they are written, redacted, read and exported."""
