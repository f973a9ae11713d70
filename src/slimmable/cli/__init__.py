"""The command line: thin; what it does lies in :mod:`slimmable.recipes`."""
