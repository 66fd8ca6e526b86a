"""Exports a run's clusters and model to files for other programs."""
