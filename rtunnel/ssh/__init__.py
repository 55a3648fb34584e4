"""Conch made ours: the only package that subclasses Conch."""
