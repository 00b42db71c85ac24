"""What is recorded about every attempt: events, chain, export, anomalies."""
