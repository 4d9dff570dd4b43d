"""Thresholds for a stated goal: collected once, replayed exactly, chosen on one part of the data, told from another."""
