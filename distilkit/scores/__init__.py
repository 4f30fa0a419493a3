"""Compute metrics, intervals, tests and comparisons."""
