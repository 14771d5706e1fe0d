"""Try many settings of ESPRO on one task, beside a deep ensemble of as many training epochs.

    python recipes/study_espro.py recipes/configs/compare_from_scratch.yaml --espro_components 2 \\
        --study recipes/configs/study_from_scratch.yaml

The study file names the settings, each with the arguments of `compare_ensembles.py` that it changes:

    volume-1e-4: {volume_weight: 1.0e-4, volume_weight_scaling: none}

All settings share their modes. What is done is not repeated. Images are not corrupted. The recipe appends one line for
each setting and seed to `OUTPUT/study.jsonl`, as soon as it is known, and writes `OUTPUT/study.md`: means over seeds,
and all lines. `comparison_report.py` makes one Parquet file of them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comparison.arguments import CompareArguments
from comparison.study import read_settings, run_study

from hf_simplex.training.recipe.arguments import DataArguments, EsproArguments
from hf_simplex.training.recipe.interruption import as_recipe
from hf_simplex.training.recipe.parsing import parse_arguments


@dataclass
class StudyArguments:
    """The settings of a study."""

    _argument_group_name = "study"

    study: str = field(default="", metadata={"help": "YAML file: for each setting the arguments that it changes."})


@as_recipe
def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the study; returns the lines that it added to study.jsonl."""
    try:
        study, compare, data_args, args = parse_arguments(
            (StudyArguments, CompareArguments, DataArguments, EsproArguments), argv
        )
        # A study chooses settings; compare_ensembles.py then measures the chosen one under shift.
        compare.corruptions = None
        settings = read_settings(Path(study.study), compare, args)
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    return run_study(settings, compare, data_args, args)


if __name__ == "__main__":
    main()
