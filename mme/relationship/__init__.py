"""Known covariances between the levels of a grouping factor, with their labels."""
