"""What a method asks of training beside a loss and steps."""
