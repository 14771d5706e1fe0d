"""SimplexTrainer and SPRO, the training of one vertex while the others are frozen."""
