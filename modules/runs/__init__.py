"""What decides a run, and its record."""
