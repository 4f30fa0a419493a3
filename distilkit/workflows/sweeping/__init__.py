"""`sweep`: students for each combination of values, compared with intervals."""
