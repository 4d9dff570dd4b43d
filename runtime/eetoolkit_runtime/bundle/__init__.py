"""Bundles on disk: opened, checked, written in one step, packed."""
