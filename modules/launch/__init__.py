"""Processes that carry out runs."""
