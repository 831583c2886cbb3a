"""Pictures of a table's sections, as PNG and SVG."""
