"""From statsmodels' arguments to the engine's design."""
