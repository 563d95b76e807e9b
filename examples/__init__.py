"""Examples that run from a checkout: a small data set with its recipes, and the demo."""
