"""Rows and documents that the figures write: the same ones each time."""
