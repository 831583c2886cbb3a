"""A benchmark's table in each format: Markdown, CSV, LaTeX, a terminal."""
