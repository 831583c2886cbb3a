"""A W&B workspace and a W&B report of the project's runs, laid out for comparing methods."""
