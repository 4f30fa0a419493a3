"""Tensors: the loop, losses, inference. Nothing here prints, parses or exits."""
