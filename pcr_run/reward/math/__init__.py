"""A gold answer and a claimed one in, a verdict out: exact mathematics, in a worker process. May import reward."""
