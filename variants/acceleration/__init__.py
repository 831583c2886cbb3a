"""What makes a pass fast, installed from outside: without this folder everything works, slower."""
