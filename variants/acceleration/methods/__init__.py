"""Fast paths of methods, registered for the functions that they replace."""
