"""Decoder layers as one autograd function each: fewer launches, less recomputed, the same result."""
