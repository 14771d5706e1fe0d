"""Builds what is published, and uses it as somebody does who installs it."""
