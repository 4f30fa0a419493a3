"""Evaluate models side by side on one split."""
