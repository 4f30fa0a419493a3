"""Findings: what is wrong with data, models or options, in words."""
