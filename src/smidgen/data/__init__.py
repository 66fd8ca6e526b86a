"""Datasets, images, views and batches: everything that methods receive; independent of any method."""
