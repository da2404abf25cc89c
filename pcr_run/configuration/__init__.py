"""From a command line to a typed, checked configuration, and what it amounts to (dry run). Imports no torch."""
