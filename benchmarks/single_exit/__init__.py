"""Trained networks with one answer at the end, as most are, and rows that they have not learned from."""
