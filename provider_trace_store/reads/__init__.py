"""Reads: which rows, in which order, as traces."""
