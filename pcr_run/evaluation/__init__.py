"""A policy in; Pass@1 with its standard error, and perplexity of held-out text, out."""
