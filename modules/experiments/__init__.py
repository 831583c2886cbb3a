"""From flags to runs."""
