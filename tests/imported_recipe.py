"""The recipe, imported and frozen for the garbage collector, for the processes of test_killed.py.

Each stage collects garbage. A scan of all imported objects takes longer than the tiny training.
"""

import gc

from train_espro import main as main

gc.collect()
gc.freeze()
