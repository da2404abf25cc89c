"""A batch of scored responses in; one or more optimizer steps on the model, metrics and layer rows out.

May import model, gradients and resolver.
"""
