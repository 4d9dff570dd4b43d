"""Smaller numbers in a segment's graph, and a bundle of candidates to choose from."""
