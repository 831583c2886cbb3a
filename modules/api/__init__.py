"""Training from Python, as the commands train: `from modules import train`."""
