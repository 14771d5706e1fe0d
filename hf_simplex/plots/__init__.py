"""Pictures of loss surfaces and of calibration."""
