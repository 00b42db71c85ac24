"""The house of the recipes."""

from tests.recipes.house import house

__all__ = ["house"]
