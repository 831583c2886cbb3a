"""The content of tables: published rows, our rows, texts of cells, significance. No writer is known here."""
