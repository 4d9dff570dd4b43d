"""A bundle in two halves: the device's, and what a model server holds."""
