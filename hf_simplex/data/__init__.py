"""Image data sets, their transforms, and random streams."""
