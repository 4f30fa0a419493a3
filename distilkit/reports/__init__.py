"""What is made of figures: intervals, tests, pictures, pages. Nothing here knows a model."""
