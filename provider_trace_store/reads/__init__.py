"""Reads: statements, filters and cursors; rows come back as traces."""
