"""Products of adapters and of the frozen maps that they sit on, in few operations and little memory."""
