"""statsmodels' results."""
