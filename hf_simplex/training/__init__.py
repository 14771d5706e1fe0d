"""SimplexTrainer and SPRO, the training of one vertex while the others are frozen."""

__all__: list[str] = []
