"""Recipes: options of `gloria train` in YAML files, among them the released code's."""

from gloria.recipes.loading import available_recipes, load_recipe

__all__ = ["available_recipes", "load_recipe"]
