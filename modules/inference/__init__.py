"""Trained runs at work: their models loaded, and what they say of new texts."""
