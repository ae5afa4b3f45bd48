"""Threads, memory, what is said while a fit runs."""
