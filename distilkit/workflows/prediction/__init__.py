"""Classify the rows of files, or texts, with one model."""
