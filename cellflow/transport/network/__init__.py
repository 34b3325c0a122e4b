"""Exact transport of any masses, by column generation."""
