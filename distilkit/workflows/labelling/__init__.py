"""Write a teacher's answers to a file: of a model, an endpoint or a language model."""
