"""Saves that are killed, read while they run, out of space, or led astray by links: `make saves`."""
