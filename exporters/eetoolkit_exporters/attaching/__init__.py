"""Exits for a trained network that has none: places on its graph, heads there, their features and fits."""
