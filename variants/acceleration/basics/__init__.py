"""What every part of acceleration needs: when it pays, how attributes are replaced, private calls of PyTorch."""
