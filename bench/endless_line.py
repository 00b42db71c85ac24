"""Writes 1 GB without a line end."""

import os

PIECE = b"x" * 65536
for _ in range((1 << 30) // len(PIECE)):
    os.write(1, PIECE)
