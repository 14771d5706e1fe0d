"""SPRO, and the trainer that grows vertices with it."""
