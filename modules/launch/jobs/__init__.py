"""`--launch`: runs as jobs of a scheduler."""
