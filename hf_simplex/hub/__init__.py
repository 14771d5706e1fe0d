"""Model cards, and publishing to the Hub."""

__all__: list[str] = []
