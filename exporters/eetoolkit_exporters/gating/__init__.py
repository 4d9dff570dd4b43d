"""Blended gates, proved hard, as `If` nodes with their work inside."""
