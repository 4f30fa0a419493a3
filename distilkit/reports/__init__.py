"""Make documents, tables, plots and pages of figures, without loading a model."""
