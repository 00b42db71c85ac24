"""Who runs an execution, and until when that holds without a sign of life."""

LEASE = 15.0  # seconds that an execution stays its owner's without a heartbeat
HEARTBEAT = 3.0  # seconds between two heartbeats
