"""Measures reads as the table grows to ten million rows: `python -m benchmarks.scale --help`."""
