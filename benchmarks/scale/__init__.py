"""Measures reads as the table grows to ten million rows: `python -m benchmarks.scale --help`.

`python -m benchmarks.scale.days` measures the size of the database over 30 days with and without packing.
"""
