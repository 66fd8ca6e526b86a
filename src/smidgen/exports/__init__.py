"""The clusters and the model of a run as files for other programs."""
