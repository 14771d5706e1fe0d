"""Pictures of loss surfaces, calibration and dataset shift. They need the extra `plots`."""

__all__: list[str] = []
