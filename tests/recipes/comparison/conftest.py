"""A comparison that takes seconds, run once for all tests of this folder."""

from pathlib import Path

import compare_ensembles
import pytest

TRAINING = [
    "--data_set", "digits", "--max_train_examples", "80", "--max_test_examples", "60", "--validation_fraction", "0.25",
    "--image_size", "16", "--augment", "none", "--budget", "3", "--num_train_epochs", "1", "--learning_rate", "5e-3",
    "--per_device_train_batch_size", "20", "--per_device_eval_batch_size", "60", "--batch_norm_images", "60",
    "--cycle_epochs", "1", "--forward_passes", "3", "--connector_epochs", "0.5", "--num_vertices", "2",
    "--volume_weight", "0", "--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true",
]  # fmt: skip


@pytest.fixture(scope="session")
def training() -> list[str]:
    """Flags of a training that takes seconds; the backbone is not among them."""
    return TRAINING


@pytest.fixture(scope="session")
def small(training: list[str]) -> list[str]:
    """Flags of a network that trains from scratch in seconds, for one seed."""
    return [*training, "--from_scratch", "true", "--width", "4", "--seeds", "0"]


@pytest.fixture(scope="session")
def flags_of_compared(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    # The digits are their own out-of-distribution images: that needs no further data set.
    return [
        *small, "--output_dir", str(tmp_path_factory.mktemp("compared")), "--seeds", "0", "1", "--out_of_distribution",
        "digits", "--corruptions", "brightness", "--severities", "1", "5", "--max_corrupted_examples", "10",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def compared(flags_of_compared: list[str]) -> Path:
    """The output of a comparison of two seeds."""
    compare_ensembles.main(flags_of_compared)
    return Path(flags_of_compared[flags_of_compared.index("--output_dir") + 1])
