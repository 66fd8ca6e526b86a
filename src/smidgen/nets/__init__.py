"""Encoders, heads and decoders: tensors in, tensors out."""
