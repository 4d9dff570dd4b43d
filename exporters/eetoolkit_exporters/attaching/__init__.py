"""Exits for a network that has none: where they can stand."""
