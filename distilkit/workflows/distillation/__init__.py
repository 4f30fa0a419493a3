"""`distill`: students trained on teacher logits and labels."""
