"""Errors that end a command with one line."""


class UsageError(Exception):
    """Invalid arguments. The message is one line; the exit status is 2."""


class DivergedError(Exception):
    """The loss, a parameter or a likelihood is not finite. The exit status is 1."""
