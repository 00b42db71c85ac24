"""Notifications: which outcomes are reported to whom, and when a delivery is tried again."""
