"""Executes the notebooks of the documentation and keeps what they print and draw."""
