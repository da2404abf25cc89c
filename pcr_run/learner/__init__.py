"""A batch of scored responses in; optimizer steps, metrics, layer rows out. May import model, gradients, resolver."""
