"""Conjugate gradients and stochastic traces instead of a factorization."""
