"""The backbone's image processor: read at first use, checked against the backbone, saved with the ensemble."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, BaseImageProcessor, PreTrainedConfig
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

from .checkpoint import locate
from .json_files import read_json

__all__ = [
    "LazyImageProcessor",
    "ProcessorSource",
    "check_image_processor",
    "processor_file",
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
        described: name and content of the file that describes it, as it was beside the weights when they were read;
            None: whatever is found.

    Example:
        >>> ProcessorSource("me/ensemble", {"revision": "v1"}).name_or_path
        'me/ensemble'
    """

    name_or_path: str
    kwargs: dict[str, Any]
    described: tuple[str, bytes] | None = None


def processor_source(
    name_or_path: str | os.PathLike[str], kwargs: Mapping[str, Any], described: tuple[str, bytes] | None = None
) -> ProcessorSource:
    """Return the image processor's source, with the download arguments among `kwargs` of the model.

    Example:
        >>> processor_source("me/ensemble", {"revision": "v1", "dtype": "float16"}).kwargs
        {'revision': 'v1'}
    """
    found = {name: kwargs[name] for name in _DOWNLOAD_KWARGS if kwargs.get(name) is not None}
    return ProcessorSource(os.fspath(name_or_path), found, described)


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
            self._processor = _read(self._source)
            if self._processor is None:
                self._source = None
        return self._processor


def _read(source: ProcessorSource) -> BaseImageProcessor | None:
    """Read an image processor; None where the folder or repository has none."""
    # Without an answer transformers would ask the user whether to trust code, and wait.
    kwargs = {"trust_remote_code": False, **source.kwargs}
    found, failure = _attempt(source.name_or_path, kwargs)
    if source.described is not None and not _is_in_place(source):
        # It was left aside by a killed save, or another process has saved since the weights were read.
        name, content = source.described
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, name).write_bytes(content)
            found, failure = _attempt(folder, {**kwargs, "subfolder": ""})
    if failure is not None and (broken := _file_of(source)) is not None:
        # Image processors check their settings each in its own way.
        raise ValueError(
            f"The image processor in {broken} cannot be read. {type(failure).__name__}: {failure}"
        ) from failure
    return found


def _attempt(name_or_path: str, kwargs: Mapping[str, Any]) -> tuple[BaseImageProcessor | None, Exception | None]:
    try:
        return AutoImageProcessor.from_pretrained(name_or_path, **kwargs), None
    except Exception as error:
        return None, error


def _is_in_place(source: ProcessorSource) -> bool:
    """Whether transformers has read the image processor that lay beside the weights."""
    assert source.described is not None
    name, content = source.described
    folder = Path(source.name_or_path, source.kwargs.get("subfolder") or "")
    try:
        return _file_of(source) == folder / name and (folder / name).read_bytes() == content
    except (OSError, ValueError):
        # Another process saves at this moment.
        return False


def _file_of(source: ProcessorSource) -> Path | None:
    return processor_file(source.name_or_path, **source.kwargs)


def processor_file(name_or_path: str | os.PathLike[str], **kwargs: Any) -> Path | None:
    """Return the file that describes an image processor; None if there is none.

    Args:
        name_or_path: a folder or a Hub id.
        **kwargs: arguments of `from_pretrained`.

    Raises:
        ValueError: config.json is no JSON object.

    Example:
        >>> processor_file("no/such/folder") is None
        True
    """
    for name in (IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, CONFIG_NAME):
        try:
            found = locate(name_or_path, name, **kwargs)
        except OSError:
            return None
        # timm's settings are in config.json.
        if found is not None and (name != CONFIG_NAME or "image_processor_type" in read_json(found)):
            return found
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
