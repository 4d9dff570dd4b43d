"""The graph cut into blocks at exits and gates, and these made into segments."""
