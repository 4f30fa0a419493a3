"""Answer texts over HTTP with one model."""
