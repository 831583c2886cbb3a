"""What adapters learnt: singular directions, and what they share."""
