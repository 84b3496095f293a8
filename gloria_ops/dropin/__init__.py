"""Replacements with the signatures of the code that they replace, one module for each project."""
