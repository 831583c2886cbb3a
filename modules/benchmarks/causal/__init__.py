"""What benchmarks of causal language models share: rows with targets, their losses, and the search for outputs."""
