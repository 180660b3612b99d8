"""Measures the package against the raw driver doing the same work: `python -m benchmarks --help`."""
