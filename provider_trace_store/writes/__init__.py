"""Writes: one row or many, by the same rules."""
