"""Metrics, calibration, selective prediction, conformal sets, comparison, dataset shift and loss surfaces."""

__all__: list[str] = []
