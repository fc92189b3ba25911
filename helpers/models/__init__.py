"""Networks by name, and checkpoints that carry a model card."""
