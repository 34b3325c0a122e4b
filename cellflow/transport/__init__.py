"""Solvers of optimal transport between arrays, which know no snapshots."""
