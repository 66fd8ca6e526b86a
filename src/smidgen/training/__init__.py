"""The one training loop, its callbacks, schedules and checkpoints; knows methods only by their contract."""
