"""ESPRO beside what people use instead of it, at equal training epochs and at equal forward passes."""
