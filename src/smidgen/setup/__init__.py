"""What a fit needs before it starts: choices made, images and evidence opened, the problem stated."""
