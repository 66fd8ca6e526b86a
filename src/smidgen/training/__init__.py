"""The one training loop, its callbacks and checkpoints; knows methods only by their contract."""
