"""One run: Lightning's module, callbacks and Trainer, and the record of what came out."""
