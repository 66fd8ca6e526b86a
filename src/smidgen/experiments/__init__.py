"""Recipes run with several seeds on simulated evidence, and variants of one recipe side by side."""
