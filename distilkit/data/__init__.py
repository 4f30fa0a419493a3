"""Datasets, their encoding and batching."""
