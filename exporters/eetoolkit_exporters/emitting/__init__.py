"""Segments as files, golden samples and the manifest."""
