"""The shipped policy profiles, as TOML."""
