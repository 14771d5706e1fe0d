"""Takes every kind of backbone through an ensemble's life, from wrapping to plain loading: `make sweep`."""
