"""The simplex explorer: an app in which one asks an ensemble, and wanders through its simplexes."""

__all__: list[str] = []
