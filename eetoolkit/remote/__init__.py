"""Verbs that run on another machine: how it is reached, and what is done there."""
