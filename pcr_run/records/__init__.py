"""The files of a run directory, written by the run and read by everybody; no torch. May import nothing."""
