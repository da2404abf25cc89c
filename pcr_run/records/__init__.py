"""The files of a run directory: written by the run, read by everybody. Imports no torch."""
