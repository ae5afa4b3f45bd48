"""The search over theta; knows no matrices."""
