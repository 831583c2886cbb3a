"""What makes training fast, installed from outside: without this folder everything works, slower."""
