"""A policy in; Pass@1 with its standard error, and perplexity of texts, out. May import model and reward."""
