"""What training on a base in few bits takes of a GPU's memory."""
