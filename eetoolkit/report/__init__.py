"""A choice of thresholds as one page that needs no network: figures, charts, mistakes, the verdict."""
