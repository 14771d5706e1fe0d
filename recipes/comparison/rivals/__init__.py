"""What people use instead of a simplex: one file a method."""
