"""Training: the loop, its losses and its optimizers."""
