"""Management commands of Django projects, which runners execute."""
