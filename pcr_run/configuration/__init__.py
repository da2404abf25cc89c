"""A command line in; a typed, checked one out. No torch. May import distributed, model, records, resolver, reward."""
