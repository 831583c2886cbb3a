"""What variants are compared on: one folder per benchmark."""
