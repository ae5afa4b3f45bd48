"""The engine: plain arrays, no label, no pandas."""
