"""What a runner's answers add up to in use: counts of constant size, and whether thresholds still fit."""
