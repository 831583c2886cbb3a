"""Where a run's figures are shown while it trains: W&B, trackio, TensorBoard, CSV."""
