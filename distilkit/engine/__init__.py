"""Tensors: the loop, losses, metrics, inference. Nothing here prints, parses or exits."""
