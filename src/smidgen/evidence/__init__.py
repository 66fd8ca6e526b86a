"""What is known of the images: statements in files and from Python, what they allow, and how they are learned."""
