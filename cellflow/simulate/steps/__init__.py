"""One file, one solver: its step, and its entry in the registry."""
