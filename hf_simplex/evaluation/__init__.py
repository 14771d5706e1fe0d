"""Metrics, calibration, comparison, distribution shift and loss surfaces."""
