"""Where an adapter sits: a map of a model, or a slice of one."""
