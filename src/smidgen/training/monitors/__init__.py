"""Callbacks that follow a training: scores of a sample, alarms when it goes wrong, and what to do about it."""
