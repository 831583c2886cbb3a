"""Adapters on a model: attached, switched, merged, combined, mixed, stacked."""
