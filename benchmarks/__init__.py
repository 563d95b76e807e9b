"""Measurements with a command each; nothing here is a test, and no test asserts a time."""
