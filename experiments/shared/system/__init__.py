"""What a command needs of the machine: signals, terminal, files, devices and processes, compiled programs."""
