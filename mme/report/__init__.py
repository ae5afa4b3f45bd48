"""What people look at, for both doors."""
