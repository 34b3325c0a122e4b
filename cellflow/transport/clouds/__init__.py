"""Near-optimal, certified transport between clouds of millions of points."""
