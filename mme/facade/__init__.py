"""statsmodels' door: its words live only here."""
