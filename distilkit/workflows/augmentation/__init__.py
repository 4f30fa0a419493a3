"""`augment`: new texts from the training split's."""
