"""Benchmarks against websocketd, run by hand: `python -m bench`."""
