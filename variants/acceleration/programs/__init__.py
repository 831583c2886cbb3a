"""Triton programs: computations of our own that one pass over memory does."""
