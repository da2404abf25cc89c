"""A command line in; a typed, checked configuration out. No torch. May import model, records, resolver, reward."""
