"""Hooks: lines that a signed request from elsewhere starts, with values for their parameters."""
