"""One factorization per theta."""
