"""What makes a pass fast, installed from outside: without this folder everything works, slower.

with accelerated(adapted):
    loss = model(**batch).loss
"""

from variants.acceleration.passes import accelerated, accelerated_updates

__all__ = ["accelerated", "accelerated_updates"]
