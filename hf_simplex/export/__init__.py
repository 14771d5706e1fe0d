"""A point or a whole ensemble as one graph: ONNX, or a program of torch.export."""

__all__: list[str] = []
