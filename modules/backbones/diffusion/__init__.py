"""Diffusion models: their folders, how each family reads prompts and noisy pictures, their losses, and sampling."""
