"""Inference: texts to logits, and how long that takes."""
