"""A program and its tests in, a verdict out: the program is shut in, the tests are not. May import reward."""
