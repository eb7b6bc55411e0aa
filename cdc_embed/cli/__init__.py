"""The command line: one file a command; arguments, environment, signals and construction."""
