"""A gold answer and a claimed one in, a verdict out: exact mathematics. Runs in a worker process."""
