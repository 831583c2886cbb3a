"""Training steps: backbones, batches, implementations, and their measurement."""
