"""Signals, the terminal, files, devices and processes, and compiled programs of a command."""
