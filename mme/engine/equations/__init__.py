"""From rows to cross-products."""
