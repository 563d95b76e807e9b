"""A rotating machine that is well, and eight ways to be ill: an example of rows of numbers."""
