"""`doctor`: what would make a distillation worthless."""
