"""Files: written whole or not at all, by one writer at a time; those of anybody, read."""
