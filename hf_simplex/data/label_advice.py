"""What to do where no column of labels is found: choose one, or make lists of columns of 0 and 1."""

from pathlib import Path

from datasets import ClassLabel, Dataset, Value

from .message_words import quoted

__all__ = ["label_advice"]

_NUMBERS = ("int", "uint", "bool", "float", "double")
_READERS = {
    ".csv": "read_csv({!r})",
    ".jsonl": "read_json({!r}, lines=True)",
    ".parquet": "read_parquet({!r})",
}


def label_advice(dataset: Dataset, metadata_file: Path | None = None) -> str:
    """Says how to choose a column of labels, and how to give an image several.

    Where two or more columns hold nothing but 0 and 1, a line of Python makes lists of labels of them.

    Args:
        dataset: with all its columns.
        metadata_file: file that the columns are from; None for any other data set.

    Example:
        >>> from datasets import Dataset
        >>> from hf_simplex.data.label_advice import label_advice
        >>> label_advice(Dataset.from_dict({"tags": ["cat"]})).split(". ")[0]
        'Choose one with label_column (--label_column of a recipe, --label-column of hf-simplex)'
    """
    advice = (
        "Choose one with label_column (--label_column of a recipe, --label-column of hf-simplex). Several labels of "
        'an image are a list in one column: "labels": ["cat", "dog"].'
    )
    columns = [
        column
        for column, feature in dataset.features.items()
        if isinstance(feature, Value | ClassLabel)
        and feature.dtype.startswith(_NUMBERS)
        and set(dataset.unique(column)) <= {0, 1}
    ]
    if len(columns) < 2:
        return advice
    line = f"dataset = dataset.map(lambda row: {{'labels': [name for name in {columns} if row[name]]}})"
    then = ""
    if metadata_file is not None:
        target = metadata_file.with_suffix(".jsonl")
        line = (
            f"import pandas; table = pandas.{_READERS[metadata_file.suffix].format(str(metadata_file))}; "
            "names = [name for name in table.select_dtypes(['number', 'bool']) if set(table[name]) <= {0, 1}]; "
            "table['labels'] = [[name for name in names if row[name]] for _, row in table.iterrows()]; "
            f"table.drop(columns=names).to_json({str(target)!r}, orient='records', lines=True)"
        )
        then = f" Then remove {metadata_file.name}." if target != metadata_file else " It replaces the file: copy it."
    return (
        f"{advice} The {len(columns)} columns {quoted(columns)} hold 0 and 1. If they are labels, this line of Python "
        f"makes lists of them: `{line}`.{then}"
    )
