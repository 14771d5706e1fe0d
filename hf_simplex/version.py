"""The version of the package. Packaging reads it without importing torch."""

__all__ = ["__version__"]

__version__ = "0.2.0"
