"""The backbone's image processor: read at first use, checked against the backbone, saved with the ensemble."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, BaseImageProcessor, PreTrainedConfig
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, cached_file

from .json_files import read_json

__all__ = [
    "LazyImageProcessor",
    "ProcessorSource",
    "check_image_processor",
    "processor_source",
    "save_image_processor",
    "timm_settings",
]

_DOWNLOAD_KWARGS = (
    "revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder", "trust_remote_code"
)  # fmt: skip


@dataclass(frozen=True)
class ProcessorSource:
    """Where an image processor is read.

    Attributes:
        name_or_path: a Hub id or folder.
        kwargs: arguments of `AutoImageProcessor.from_pretrained`.

    Example:
        >>> ProcessorSource("me/ensemble", {"revision": "v1"}).name_or_path
        'me/ensemble'
    """

    name_or_path: str
    kwargs: dict[str, Any]


def processor_source(name_or_path: str | os.PathLike[str], kwargs: Mapping[str, Any]) -> ProcessorSource:
    """Return the image processor's source, with the download arguments among `kwargs` of the model.

    Example:
        >>> processor_source("me/ensemble", {"revision": "v1", "dtype": "float16"}).kwargs
        {'revision': 'v1'}
    """
    found = {name: kwargs[name] for name in _DOWNLOAD_KWARGS if kwargs.get(name) is not None}
    return ProcessorSource(os.fspath(name_or_path), found)


class LazyImageProcessor:
    """An image processor that is read from its folder or repository at first use.

    Args:
        processor: the image processor, if it is in memory.
        source: where to read it otherwise.

    Example:
        >>> LazyImageProcessor().load() is None
        True
    """

    def __init__(self, processor: BaseImageProcessor | None = None, source: ProcessorSource | None = None) -> None:
        self._processor = processor
        self._source = source

    def load(self) -> BaseImageProcessor | None:
        """Return the image processor; None where the folder or repository has none.

        Raises:
            ValueError: the image processor is broken.

        Example::

            LazyImageProcessor(source=processor_source("me/ensemble", {})).load()
        """
        if self._processor is None and self._source is not None:
            # Without an answer transformers would ask the user whether to trust code, and wait.
            kwargs = {"trust_remote_code": False, **self._source.kwargs}
            try:
                self._processor = AutoImageProcessor.from_pretrained(self._source.name_or_path, **kwargs)
            except Exception as error:
                # Image processors check their settings each in its own way.
                if (file := _processor_file(self._source)) is not None:
                    raise ValueError(
                        f"The image processor in {file} cannot be read. {type(error).__name__}: {error}"
                    ) from error
                self._source = None
        return self._processor


def _processor_file(source: ProcessorSource) -> Path | None:
    """The file that describes an image processor; None if there is none."""
    kwargs = {name: value for name, value in source.kwargs.items() if name != "trust_remote_code"}
    for name in (IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, CONFIG_NAME):
        try:
            found = cached_file(source.name_or_path, name, _raise_exceptions_for_missing_entries=False, **kwargs)
        except OSError:
            return None
        # timm's settings are in config.json.
        if found is not None and (name != CONFIG_NAME or "image_processor_type" in read_json(Path(found))):
            return Path(found)
    return None


def timm_settings(processor: BaseImageProcessor | None) -> dict[str, Any] | None:
    """Return the settings of timm's image processor; None for any other.

    timm keeps these settings in the backbone's configuration and has no file for them.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> timm_settings(ViTImageProcessor()) is None
        True
    """
    return getattr(processor, "data_config", None)


def check_image_processor(processor: BaseImageProcessor, backbone_config: PreTrainedConfig | None) -> None:
    """Check that an image processor can be saved with a backbone.

    Raises:
        ValueError: only one of the two is timm's.

    Example:
        >>> from transformers import ViTConfig, ViTImageProcessor
        >>> check_image_processor(ViTImageProcessor(), ViTConfig())
    """
    if hasattr(backbone_config, "pretrained_cfg") != (timm_settings(processor) is not None):
        raise ValueError(
            f"A {type(processor).__name__} does not go with this backbone: timm's backbones need a "
            "TimmWrapperImageProcessor, and only they can have one."
        )


def save_image_processor(processor: BaseImageProcessor | None, directory: Path) -> None:
    """Write preprocessor_config.json, unless config.json holds the settings (timm) or there is no image processor.

    Example:
        >>> save_image_processor(None, Path("ensemble"))
    """
    if processor is not None and timm_settings(processor) is None:
        processor.save_pretrained(directory)
