"""Ways to integrate a field over a segment."""
