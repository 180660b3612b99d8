"""Measures the package beside the raw drivers, and one commit beside another: `python -m benchmarks --help`."""
