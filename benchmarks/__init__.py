"""Comparisons that the documentation quotes. Run from the checkout."""
