"""Schedules: when a command is due, what becomes of due times that were missed or overlap, and when it is tried again."""
