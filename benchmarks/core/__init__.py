"""Databases to measure on, rounds of measurements, and how results are printed."""
