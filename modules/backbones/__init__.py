"""Pretrained models: found, loaded, checked, and given a head."""
