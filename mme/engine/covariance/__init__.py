"""Relative covariances of random terms, their factors and derivatives."""
