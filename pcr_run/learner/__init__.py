"""A batch of scored responses in; optimizer steps out. May import distributed, gradients, model, resolver."""
