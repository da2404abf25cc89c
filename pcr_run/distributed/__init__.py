"""Processes that share one model: what each of them is, and the model in shards. May import nothing."""
