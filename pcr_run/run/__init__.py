"""One run: assembles the parts from a configuration, steps the loop, keeps checkpoints. May import every room."""
