"""A bundle without exits that do not pay."""
