"""compare.py: rows of a file, a search for the setting of each, then its seeds."""
