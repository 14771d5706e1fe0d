"""Inference: the structure, weights, prediction and files of an ensemble."""

__all__: list[str] = []
