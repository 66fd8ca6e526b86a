"""Prepares a fit: makes its choices, opens images and evidence, and states the problem."""
