"""The suite that every variant passes."""
