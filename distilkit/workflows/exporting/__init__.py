"""Write a model as a folder that predicts without torch."""
