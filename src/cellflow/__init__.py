"""Infer how cells move through state space from snapshots of a population."""
