"""Run directories in; tables over the cells of a sweep out. May import records."""
