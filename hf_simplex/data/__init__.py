"""Image data sets, their transforms, and random streams."""

__all__: list[str] = []
