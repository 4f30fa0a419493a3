"""Scores: metrics, intervals, tests and comparisons."""
