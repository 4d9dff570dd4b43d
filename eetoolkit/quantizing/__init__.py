"""Quantising a bundle: which segments, what it gains, and what it costs."""
