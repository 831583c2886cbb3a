"""Whole fine-tuning jobs in fresh processes."""
