"""Datasets, images, views, evidence and batches: everything a method is shown; knows no method."""
