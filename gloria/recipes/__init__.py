"""Recipes: the options of `gloria train` in a YAML file, those of the released code among them."""

from gloria.recipes.loading import available_recipes, load_recipe

__all__ = ["available_recipes", "load_recipe"]
