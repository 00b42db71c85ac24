"""Attacks on a server, and what another client notices of them."""
