"""What is trained, on which data, and how it is measured."""
