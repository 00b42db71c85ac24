"""The audit: its events, their chain, its export, and the rules for anomalies and repeated refusals."""
