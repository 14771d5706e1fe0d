"""The files of the model: from_pretrained, save_pretrained, push_to_hub, exports and the image processor."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import BaseImageProcessor, PreTrainedModel
from transformers.utils import logging

from .calibrated_head import fold_temperature
from .checkpoint import check_target
from .complex_of_backbones import ComplexOfBackbones
from .configuration_simplex import SimplexConfig
from .coordinates import vertex_coordinates
from .image_processors import LazyImageProcessor, check_image_processor, processor_source, timm_settings
from .low_rank_adapters import is_inserted, mean_of_merged, merged
from .save_and_load import export_adapter, export_backbone, load_ensemble, save_ensemble

__all__ = ["CENTROID_MIXES", "SimplexPreTrainedModel"]

CENTROID_MIXES = ("parameters", "merged_weights")
"""What `export_centroid` averages over the vertices."""

logger = logging.get_logger(__name__)


class SimplexPreTrainedModel(ComplexOfBackbones):
    """A complex of backbones that loads from and saves to folders and the Hub, with its image processor.

    Args:
        config: the structure.

    Example::

        model = SimplexForImageClassification.from_pretrained("me/resnet50-simplex")
        model.save_pretrained("ensemble")
        model.export_centroid("centroid")   # loads without hf_simplex
    """

    def __init__(self, config: SimplexConfig) -> None:
        super().__init__(config)
        self._image_processor = LazyImageProcessor()

    @property
    def image_processor(self) -> BaseImageProcessor | None:
        """The backbone's image processor; None where its folder or repository has none.

        Raises:
            ValueError: it cannot be read; or, on assignment, it does not go with the backbone.

        Example::

            model.image_processor = AutoImageProcessor.from_pretrained("timm/resnet50.a1_in1k")
        """
        return self._image_processor.load()

    @image_processor.setter
    def image_processor(self, image_processor: BaseImageProcessor | None) -> None:
        if image_processor is not None:
            check_image_processor(image_processor, self.config.backbone_config)
        self._image_processor = LazyImageProcessor(image_processor)
        if (settings := timm_settings(image_processor)) is not None:
            configs: list[Any] = [self.config.backbone_config, self.backbone.config]
            for config in configs:
                config.pretrained_cfg = {**config.pretrained_cfg, **settings}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *model_args: Any,
        simplex: int | Sequence[int] | None = None,
        num_members: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load an ensemble, or a part of one, from a folder or the Hub.

        A part is an ensemble of its own. Only the vertex files that it needs are downloaded.

        Args:
            pretrained_model_name_or_path: a folder or a Hub id.
            simplex: load only this simplex (or these), and the members in it.
            num_members: load only the first members, and their simplexes.
            **kwargs: arguments of `PreTrainedModel.from_pretrained`: `revision`, `token`, `cache_dir`,
                `local_files_only`, `dtype`, `device_map`, ...

        Raises:
            OSError: the repository or revision does not exist, or the token has no access to it.
            FileNotFoundError: the folder or repository is not an ensemble, or a file of its index is missing.
            ValueError: `device_map` offloads to the CPU or the disk; a file is corrupt; the index names a file
                outside the folder; tensors are missing or have other shapes or dtypes; another model's weights lie in
                the folder; or the simplex or the number of members does not exist.

        Example::

            model = SimplexForImageClassification.from_pretrained("me/resnet50-simplex", dtype="bfloat16")
            small = SimplexForImageClassification.from_pretrained("me/resnet50-simplex", num_members=2)
        """
        with_loading_info = kwargs.pop("output_loading_info", False)
        name_or_path = pretrained_model_name_or_path
        model, loading, processor = load_ensemble(
            super().from_pretrained,
            cls,
            name_or_path,
            *model_args,
            simplex=simplex,
            num_members=num_members,
            **kwargs,
        )
        revision = model.config._commit_hash or kwargs.get("revision")
        source = processor_source(name_or_path, {**kwargs, "revision": revision}, processor)
        model._image_processor = LazyImageProcessor(source=source)
        return (model, loading) if with_loading_info else model

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        push_to_hub: bool = False,
        *,
        include_code: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Save one safetensors file for each vertex, the standard index, config.json and the image processor.

        All files are written to a temporary folder and then renamed. An unchanged vertex gets the same bytes. There is
        no model card among them: `hub.model_card.write_card` writes one, and so does publishing.

        Args:
            save_directory: created if it does not exist.
            is_main_process: False writes nothing.
            push_to_hub: also upload, to `kwargs["repo_id"]` or a repository named after the folder.
            include_code: save the inference code, so that `trust_remote_code=True` loads the ensemble without
                hf_simplex; default: only if this ensemble was loaded that way.
            **kwargs: arguments of `push_to_hub`.

        Raises:
            ValueError: `save_directory` is a file, or holds another kind of model or an adapter; or pickles, a variant
                or other weights were asked for.

        Example::

            model.save_pretrained("ensemble")
        """
        if kwargs.pop("safe_serialization", True) is False:
            raise ValueError("safe_serialization=False was given: weights are only written to safetensors files.")
        for name in ("state_dict", "variant"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(
                    f"{name} was given, but an ensemble is saved with its own weights under their own names: "
                    "leave it out."
                )
        check_target(save_directory, self.config.model_type)
        if not is_main_process:
            return
        include_code = self.is_remote_code() if include_code is None else include_code
        save_ensemble(self, self.image_processor, save_directory, include_code=include_code)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = None,
        tags: str | list[str] | None = None,
        include_code: bool = True,
        with_handler: bool = False,
    ) -> Any:
        """Publish the ensemble in one commit, with its model card.

        Args:
            max_shard_size: ignored: every vertex is one file.
            include_code: also publish the code that loads the ensemble without hf_simplex.
            with_handler: also publish handler.py, with which Inference Endpoints serves the ensemble.

        Raises:
            ImportError: hf_simplex is not installed: this model came from the Hub with its own code.
            ValueError, OSError: see `hub.publishing.publish_folder`.

        Example::

            model.push_to_hub("me/resnet50-simplex", private=True)
        """
        # hf_simplex/registration.py replaces this method where the whole package is installed.
        raise ImportError("Publishing needs all of hf-simplex: pip install hf-simplex, then import hf_simplex.")

    def calibrate(self, validation: Any, *, batches: Any = None, **kwargs: Any) -> Any:
        """Choose the members and fit temperature, abstention and prediction sets on validation images.

        `decisions` keeps what was fitted, and `save_pretrained` writes it to config.json. `hub.model_card.write_card`
        writes a card that tells of it.

        Args:
            validation: images with labels that were not trained on, as the trainer takes them.
            batches: inputs of training images, for the BatchNorm statistics of further candidate members.
            **kwargs: see `evaluation.calibrate.calibrate`.

        Returns:
            A `decisions.Decisions`; None where there are too few images.

        Raises:
            ImportError: hf_simplex is not installed: this model came from the Hub with its own code.
            ValueError: see `evaluation.calibrate.calibrate`.

        Example::

            decisions = model.calibrate(validation_images)
            model.save_pretrained("ensemble")
        """
        # hf_simplex/registration.py replaces this method where the whole package is installed.
        raise ImportError("Calibration needs all of hf-simplex: pip install hf-simplex, then import hf_simplex.")

    def export_vertex(self, vertex: int, save_directory: str | os.PathLike[str], *, as_adapter: bool = False) -> None:
        """Save one vertex as an ordinary checkpoint of the backbone, which loads without hf_simplex.

        Low-rank adapters are merged into the weights, unless `as_adapter`.

        Args:
            vertex: index of the vertex.
            save_directory: created if it does not exist.
            as_adapter: save an adapter of peft for the backbone that `provenance` names, instead of a whole model.

        Raises:
            IndexError: the vertex does not exist.
            ValueError: see `save_and_load.export_backbone` and `export_adapter`.

        Example::

            model.export_vertex(0, "mode")
            AutoModelForImageClassification.from_pretrained("mode")
        """
        if not 0 <= vertex < self.config.num_vertices:
            raise IndexError(f"There is no vertex {vertex}: the vertices are 0 to {self.config.num_vertices - 1}.")
        self._export(self._write(vertex_coordinates(self.config.complex, vertex).tolist()), save_directory, as_adapter)

    def export_member(self, member: int, save_directory: str | os.PathLike[str], *, as_adapter: bool = False) -> None:
        """Save one member as an ordinary checkpoint of the backbone, which loads without hf_simplex.

        Low-rank adapters are merged into the weights, unless `as_adapter`.

        Args:
            member: index of the member.
            save_directory: created if it does not exist.
            as_adapter: see `export_vertex`.

        Raises:
            IndexError: the member does not exist.
            ValueError: see `export_vertex`.

        Example::

            model.export_member(0, "member")
            AutoModelForImageClassification.from_pretrained("member")
        """
        self._export(self.member_backbone(member), save_directory, as_adapter)

    def export_centroid(
        self,
        save_directory: str | os.PathLike[str],
        simplex: int = 0,
        *,
        as_adapter: bool = False,
        mix: str = "parameters",
    ) -> None:
        """Save the centroid of one simplex as an ordinary checkpoint of the backbone, which loads without hf_simplex.

        With decisions, the head's weights and bias are divided by the centroid's temperature: the checkpoint is
        calibrated by itself.

        Args:
            save_directory: created if it does not exist.
            simplex: index of the simplex.
            as_adapter: see `export_vertex`.
            mix: what is averaged over the vertices of low-rank adapters. `"parameters"`: A and B on their own, as at
                every other point of the simplex; training lowers the loss of these points. `"merged_weights"`: the
                weights W + s B A. That average is exact, but its loss was not trained for, and no temperature was
                fitted for it. Without adapters the two are the same point.

        Raises:
            IndexError: the simplex does not exist.
            RuntimeError: the backbone has BatchNorm and the members are not drawn, so the statistics are unknown.
            ValueError: `mix` is unknown, or does not go with `as_adapter`; or see `export_vertex`.

        Example::

            model.export_centroid("centroid")
            AutoModelForImageClassification.from_pretrained("centroid")
        """
        if mix not in CENTROID_MIXES:
            raise ValueError(f"mix is {mix!r}: choose from {', '.join(CENTROID_MIXES)}.")
        if mix == "merged_weights" and as_adapter:
            raise ValueError("mix is 'merged_weights', which is no adapter of the same rank: leave out as_adapter.")
        backbone = self.write_centroid(simplex)
        temperatures = [] if self.decisions is None else self.decisions.centroid_temperatures
        if mix == "merged_weights" and is_inserted(backbone):
            if temperatures:
                logger.warning("The temperature of the centroid was fitted for mix='parameters': it is left out.")
            vertices = self.config.simplexes[simplex]
            backbones = (self._write(vertex_coordinates(self.config.complex, v).tolist()) for v in vertices)
            export_backbone(mean_of_merged(backbones), self.config, self.image_processor, save_directory)
            return
        if temperatures:
            backbone = copy.deepcopy(backbone) if as_adapter else merged(backbone)
            if not fold_temperature(backbone, temperatures[simplex], self.image_processor):
                logger.warning(
                    "The head of this backbone is not one linear layer, so the centroid is exported without its "
                    "temperature: its probabilities are not calibrated."
                )
        self._export(backbone, save_directory, as_adapter)

    def _export(self, backbone: PreTrainedModel, directory: str | os.PathLike[str], as_adapter: bool) -> None:
        if as_adapter:
            export_adapter(backbone, self.config, directory)
        else:
            export_backbone(backbone, self.config, self.image_processor, directory)
