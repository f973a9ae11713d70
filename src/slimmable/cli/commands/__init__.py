"""One module for each command: ``command(options)`` carries it out and returns the exit code."""
