"""Bundles and profiles as people look at them: drawings, pictures, summaries."""
