"""Three trained early-exit networks on real data, each with validation and test splits that it has not learned from."""
