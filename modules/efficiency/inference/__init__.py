"""Latency of inference with adapters."""
