"""The command language: a line parsed into words, commands and steps."""
