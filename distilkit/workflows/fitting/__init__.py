"""Fitting: one model or several trained into run folders."""
