"""What the scripts in `recipes/` share: arguments, data, components, and the record of a run.

Needs the optional dependencies of `pip install hf-simplex[recipes]`.
"""
