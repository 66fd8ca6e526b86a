"""smidgen labels image collections from a smidgen of supervision."""

__version__ = "0.1.0"
