"""Gatepost: one guarded gate through which commands run."""

__version__ = "0.1.0"
