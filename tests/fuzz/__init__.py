"""Loads ensembles with broken files, by the thousand: `make fuzz`."""
