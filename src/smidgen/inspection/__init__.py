"""Inspects a collection before a fit: copies, outliers, poor images, and reasons for `fit` to refuse it."""
