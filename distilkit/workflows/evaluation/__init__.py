"""`evaluate`: models scored side by side on one split."""
