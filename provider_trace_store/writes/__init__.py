"""Writing traces: one row or many, by the same rules."""
