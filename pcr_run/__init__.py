"""GRPO experiments with two separate gradients and a selectable conflict resolver."""

__version__ = "0.1.0"
