"""One-to-one transport of equal masses."""
