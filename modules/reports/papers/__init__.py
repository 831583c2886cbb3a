"""The papers' tables with our rows, and their counts of parameters."""
