"""Find the best bundle for a budget: shapes, precisions and training, tried in order of promise."""
