"""Compare ESPRO with what people use instead, at equal training epochs and at equal forward passes.

    python recipes/compare_ensembles.py recipes/configs/compare_fine_tuning.yaml
    python recipes/compare_ensembles.py recipes/configs/compare_from_scratch.yaml --methods deep_ensemble espro

Every method gets `--budget` epochs on the same images, with the same seeds. `--num_train_epochs` is the share of one
mode of the deep ensemble, `--espro_mode_epochs` and `--connector_epochs` that of a mode and of a connector of ESPRO.
`OUTPUT/seed-<s>/` holds the weights of each model, the components of ESPRO (one folder a setting, `--espro_name`), the
probabilities that each member of each method predicts, and `results.json`: all metrics, arguments, versions and
hardware. What is there is not trained again. `comparison_report.py` makes tables and pictures over all seeds.
`comparison/rivals/` has one file for each method.
"""

import sys
from collections.abc import Sequence
from typing import Any

from comparison.arguments import CompareArguments
from comparison.run import Comparison

from hf_simplex.training.recipe.arguments import DataArguments, EsproArguments
from hf_simplex.training.recipe.interruption import as_recipe
from hf_simplex.training.recipe.parsing import parse_arguments


@as_recipe
def main(argv: Sequence[str] | None = None) -> dict[int, dict[str, Any]]:
    """Run the comparison; returns what results.json of each seed holds."""
    try:
        comparison = Comparison(*parse_arguments((CompareArguments, DataArguments, EsproArguments), argv))
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    return comparison.run()


if __name__ == "__main__":
    main()
