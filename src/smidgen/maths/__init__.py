"""Pure functions on tensors and arrays: no datasets, no models, no files."""
