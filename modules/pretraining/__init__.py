"""Backbones of one's own, from text."""
