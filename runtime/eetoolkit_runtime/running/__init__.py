"""Runs: what a plan means, and how it is followed fast."""
