"""From a torch network to the file format of each engine, in float."""
