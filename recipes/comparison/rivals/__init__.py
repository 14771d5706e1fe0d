"""One file a rival. Copy one, give it a name of its own, and add its class to `comparison/registry.py`."""
