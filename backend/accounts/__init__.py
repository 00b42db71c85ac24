"""Credentials and authentication."""
