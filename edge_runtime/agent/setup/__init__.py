"""Setting a board up: from a package that is installed to a device of a fleet that serves."""
