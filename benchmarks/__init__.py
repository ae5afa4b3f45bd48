"""asv benchmarks of mme: fits by structure, single evaluations, start-up and memory."""
