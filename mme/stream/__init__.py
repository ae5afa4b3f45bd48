"""Rows that come in chunks: their levels found, their columns coded, their cross-products added up."""
