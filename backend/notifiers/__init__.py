"""Senders of notifications: webhooks and e-mail."""
