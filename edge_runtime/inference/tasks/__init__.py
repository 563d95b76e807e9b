"""Tasks: the declared steps around a model, and the typed results that come out."""
