"""The backbone's image processor: read at first use, checked against the backbone, saved with the ensemble."""

import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, BaseImageProcessor, PreTrainedConfig
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, is_torchvision_available

from .checkpoint import locate
from .image_pixels import TRANSPARENCY
from .json_files import read_json

__all__ = [
    "LazyImageProcessor",
    "ProcessorSource",
    "check_image_processor",
    "check_processor_settings",
    "common_image_processor",
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
    before = _file_in_place(source)
    found, failure = _attempt(source.name_or_path, kwargs)
    if source.described is not None and (before is None or _file_in_place(source) != before):
        # A killed save has left it aside, or another process saves at this moment.
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


def _no_false_alarm(record: logging.LogRecord) -> bool:
    """Whether a record is more than that timm's image processor has one variant, which needs no torchvision.

    transformers says then that torchvision is not available, also where it is.
    """
    return not ("torchvision backend is not available" in record.getMessage() and is_torchvision_available())


def _attempt(name_or_path: str, kwargs: Mapping[str, Any]) -> tuple[BaseImageProcessor | None, Exception | None]:
    transformers_logger = logging.getLogger(AutoImageProcessor.__module__)
    transformers_logger.addFilter(_no_false_alarm)
    try:
        processor = AutoImageProcessor.from_pretrained(name_or_path, **kwargs)
        check_processor_settings(processor)
    except Exception as error:
        return None, error
    finally:
        transformers_logger.removeFilter(_no_false_alarm)
    return processor, None


def _file_in_place(source: ProcessorSource) -> tuple[int, int] | None:
    """Inode and time of the file that lay beside the weights; None if it is not in its place, or not known.

    A file that is replaced and put back differs in one of them.
    """
    if source.described is None:
        return None
    name, content = source.described
    file = Path(source.name_or_path, source.kwargs.get("subfolder") or "") / name
    try:
        found = file.stat()
        if _file_of(source) == file and file.read_bytes() == content:
            return found.st_ino, found.st_mtime_ns
    except (OSError, ValueError):
        # Another process saves at this moment.
        return None
    return None


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
        ValueError: only one of the two is timm's, or a setting has an impossible value.

    Example:
        >>> from transformers import ViTConfig, ViTImageProcessor
        >>> check_image_processor(ViTImageProcessor(), ViTConfig())
    """
    if hasattr(backbone_config, "pretrained_cfg") != (timm_settings(processor) is not None):
        raise ValueError(
            f"A {type(processor).__name__} does not go with this backbone: timm's backbones need a "
            "TimmWrapperImageProcessor, and only they can have one."
        )
    check_processor_settings(processor)


def check_processor_settings(processor: BaseImageProcessor) -> None:
    """Check the settings that scale and normalize pixels. transformers takes any value for them.

    Raises:
        ValueError: mean, standard deviation, scale or size of images is no finite number, or no size. The message
            names the setting.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> check_processor_settings(ViTImageProcessor())
    """
    for name, least, expected in (
        ("image_mean", -math.inf, "a number, or one for each of 3 channels"),
        ("image_std", 0.0, "a number above 0, or one for each of 3 channels"),
        ("rescale_factor", 0.0, "a number above 0, such as 1 / 255"),
    ):
        value = getattr(processor, name, None)
        values = list(value) if isinstance(value, list | tuple) and name != "rescale_factor" else [value]
        if value is not None and not (len(values) in (1, 3) and all(_is_above(each, least) for each in values)):
            raise ValueError(f"{name} is {value!r}; expected {expected}.")
    for name in ("size", "crop_size"):
        size: Any = getattr(processor, name, None)
        # A SizeDict of transformers, or a dictionary.
        for side, pixels in dict(size).items() if hasattr(size, "__getitem__") else ():
            if pixels is not None and not (isinstance(pixels, int) and _is_above(pixels, 0)):
                raise ValueError(f"{side} of {name} is {pixels!r}; expected a number of pixels.")


def _is_above(value: Any, least: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > least


def common_image_processor(
    processors: Sequence[BaseImageProcessor | None], names: Sequence[str]
) -> BaseImageProcessor | None:
    """Return the image processor of several models that see images alike.

    Args:
        processors: of each model.
        names: of each model, for the error message.

    Returns:
        The first one. None where no model has any.

    Raises:
        ValueError: two differ, or only some models have one. The message names the models and the setting.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> common_image_processor([ViTImageProcessor(), ViTImageProcessor()], ["a", "b"]) is None
        False
    """
    settings = [_settings(processor) for processor in processors]
    if missing := [name for name, found in zip(names, settings, strict=True) if not found and any(settings)]:
        raise ValueError(f"{missing[0]} has no image processor, and others have one: assign its image_processor.")
    for name, other in zip(names, settings, strict=True):
        if differing := sorted(key for key in settings[0].keys() | other if settings[0].get(key) != other.get(key)):
            key = differing[0]
            raise ValueError(
                f"{names[0]} and {name} have different image processors, and an ensemble has one: {key} is "
                f"{settings[0].get(key)!r} and {other.get(key)!r}. Give components that were trained on images of the "
                "same size, mean and standard deviation."
            )
    return processors[0]


def _settings(processor: BaseImageProcessor | None) -> dict[str, Any]:
    """What an image processor does. Its record of transparency, which older files lack, does nothing."""
    settings = {} if processor is None else json.loads(processor.to_json_string())
    return {name: value for name, value in settings.items() if name not in TRANSPARENCY}


def save_image_processor(processor: BaseImageProcessor | None, directory: Path) -> None:
    """Write preprocessor_config.json, unless config.json holds the settings (timm) or there is no image processor.

    The file records that transparent pixels are composited on white (see `image_pixels.to_rgb`).

    Example:
        >>> save_image_processor(None, Path("ensemble"))
    """
    if processor is not None and timm_settings(processor) is None:
        processor.save_pretrained(directory)
        file = Path(directory, IMAGE_PROCESSOR_NAME)
        content = {**read_json(file), **TRANSPARENCY}
        file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
