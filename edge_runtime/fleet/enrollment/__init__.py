"""Letting boards in by one-time tokens: the tokens, the server, the script that boards run."""
