"""Code for a Python process in which hf_simplex cannot be imported, as where it is not installed."""

__all__ = ["HIDE_THE_PACKAGE"]

HIDE_THE_PACKAGE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_simplex":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""
"""Put it before the code of the process, such as that of `LoopbackHub.run_python`."""
