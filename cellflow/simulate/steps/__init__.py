"""One file, one step of a fixed-step solver."""
