"""A configuration in; a complete run directory out. May import all but configuration, report and the commands."""
