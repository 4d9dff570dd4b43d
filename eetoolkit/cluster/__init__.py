"""Rows beyond one machine: on Ray, Dask and Spark."""
