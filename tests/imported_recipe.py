"""The recipe with its imports out of the garbage collector's way, for test_killed.py's processes.

Each stage collects garbage, and takes longer than its training to look through all that was imported.
"""

import gc

from train_espro import main as main

gc.collect()
gc.freeze()
