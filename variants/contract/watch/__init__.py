"""What is seen of a method while a property is tried: what it keeps, and what it draws."""
