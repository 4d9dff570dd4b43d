"""Small early-exit networks to try the toolkit on, with their data, their training and their weights."""
