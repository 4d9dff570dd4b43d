"""Early exits for a trained network with one output: places, heads, thresholds, found by the user's rows."""
