"""Readers of run directories: results, tables over the cells of a sweep, the configuration reference."""
