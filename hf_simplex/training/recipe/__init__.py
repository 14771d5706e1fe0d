"""Code shared by the scripts in `recipes/`: arguments, data, components, and the record of a run.

It needs the optional dependencies: `pip install hf-simplex[recipes]`.
"""

__all__: list[str] = []
