"""From a command line to a checked configuration, and back to ``config.json``."""
