"""`fit`: limits on cost and quality in, a student out."""
