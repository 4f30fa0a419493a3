"""The `distilkit` command."""
