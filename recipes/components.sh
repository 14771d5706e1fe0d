#!/usr/bin/env bash
# Trains the components of an ESPRO ensemble one by one, then unites and evaluates them. Run it again to resume.
#   recipes/components.sh recipes/configs/quickstart.yaml 2 --output_dir output/quickstart
set -euo pipefail
config=$1 components=$2
shift 2
for ((component = 0; component < components; component++)); do
    python recipes/train_espro.py "$config" --num_components "$components" --component "$component" --resume "$@"
done
python recipes/train_espro.py "$config" --num_components "$components" --resume "$@"
