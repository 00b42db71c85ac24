"""Runs the commands of hosts, by their agents."""
