"""The use cases: every front is a translation of them."""
