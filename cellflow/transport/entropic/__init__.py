"""Entropic transport."""
