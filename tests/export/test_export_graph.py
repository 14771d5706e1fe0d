"""Exported graphs beside the model: ONNX Runtime and torch.export, points and ensembles, any batch size."""

import builtins
import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from test_vertex_parameters import grown
from tiny import LABELS, SIZE, backbone, contents, ensemble, images
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, SwinConfig, SwinForImageClassification, ViTImageProcessor

from hf_simplex import SimplexForImageClassification, SimplexImageClassificationPipeline
from hf_simplex.export.export_graph import Point, export_graph
from hf_simplex.export.programs import run_onnx, trace
from hf_simplex.model.decisions import Decisions

ROOT = Path(__file__).parents[2]
BATCHES = (1, 2, 5)


def calibrated(kind: str) -> SimplexForImageClassification:
    """Three vertices and two members, with logits of about 1 that differ, and decisions."""
    model = ensemble(kind, members=2)
    with torch.no_grad():
        generator, size = torch.Generator().manual_seed(1), 0.05 if kind == "timm" else 2.0
        for weights in model.weights:
            head = [name for name in model.vertex_parameter_names if len(weights[name]) == LABELS]
            for name in head:
                weights[name].copy_(size * torch.randn(weights[name].shape, generator=generator))
    model.decisions = Decisions(temperature=1.7, centroid_temperatures=[0.6])
    if kind != "timm":
        model.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    return model


def ran(file: Path, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    if file.suffix == ".onnx":
        return {name: torch.as_tensor(output) for name, output in run_onnx(file, pixel_values).items()}
    program: Any = torch.export.load(file).module()
    return program(pixel_values)


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    assert found.shape == expected.shape and found.dtype == torch.float32
    return torch.allclose(found.double(), expected.double(), atol=1e-5, rtol=1e-5)


def names_a_source_file(folder: Path) -> bool:
    return any(str(ROOT).encode() in text or b"site-packages" in text for text in contents(folder).values())


@pytest.mark.parametrize(("kind", "format"), [("resnet", "onnx"), ("vit", "onnx"), ("timm", "onnx"), ("vit", "torch")])
def test_an_ensemble_is_one_graph_with_the_uncertainties_of_the_pipeline(
    kind: str, format: str, tmp_path: Path
) -> None:
    model = calibrated(kind)
    before = copy.deepcopy(model.state_dict())
    written = export_graph(model, tmp_path / "graph", format=format)
    assert written.temperature == 1.7 and written.difference < 1e-5
    assert not names_a_source_file(tmp_path / "graph")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    # It prepares no image here.
    image_processor = model.image_processor or ViTImageProcessor()
    classify = SimplexImageClassificationPipeline(model=model, image_processor=image_processor)
    for number in BATCHES:
        batch = images(number, seed=number)
        output = model(batch, output_member_probabilities=True)
        found = ran(written.file, batch)
        assert close(found["logits"], output.logits)
        assert close(found["member_probabilities"], output.member_probabilities)
        assert close(found["energy"], output.member_energies.mean(dim=1))
        assert output.logits.std() > 0.1 and found["mutual_information_nats"].max() > 1e-3
        for image in range(number):
            single = {name: tensor[image : image + 1] for name, tensor in output.items()}
            result = classify.postprocess(single, top_k=LABELS)
            for name in ("predictive_entropy_nats", "mutual_information_nats", "vote_share"):
                assert abs(found[name][image].item() - result[name]) < 1e-5, name
            deviations = {entry["label"]: entry["standard_deviation"] for entry in result["labels"]}
            for label, name in model.config.id2label.items():
                assert abs(found["standard_deviation"][image, label].item() - deviations[name]) < 1e-5


@pytest.mark.parametrize("kind", ["resnet", "vit", "timm"])
def test_a_centroid_is_a_graph_with_its_temperature_in_the_layout_of_optimum(kind: str, tmp_path: Path) -> None:
    model = calibrated(kind)
    written = export_graph(model, tmp_path / "graph", point=Point("centroid"))
    assert written.temperature == 0.6
    files = {"config.json", "model.onnx"} | ({"preprocessor_config.json"} if kind != "timm" else set())
    assert contents(tmp_path / "graph").keys() == files and not names_a_source_file(tmp_path / "graph")
    centroid = copy.deepcopy(model.write_centroid())
    for number in BATCHES:
        batch = images(number, seed=number)
        with torch.no_grad():
            expected = centroid(pixel_values=batch).logits / 0.6
        assert expected.std() > 0.1
        assert ran(written.file, batch).keys() == {"logits"}
        assert close(ran(written.file, batch)["logits"], expected)
    config = AutoConfig.from_pretrained(tmp_path / "graph")
    assert type(config) is type(model.config.backbone_config) and config.id2label == model.config.id2label
    saved = json.loads((tmp_path / "graph" / "config.json").read_bytes())
    # optimum knows no configuration of timm, and takes the names from here.
    assert {int(label): name for label, name in saved["id2label"].items()} == model.config.id2label
    assert saved["label2id"] == model.config.label2id
    assert config.hf_simplex["exported"] == "the centroid of simplex 0" and config.hf_simplex["temperature"] == 0.6
    read = AutoImageProcessor.from_pretrained(tmp_path / "graph")
    assert read(np.zeros((30, 20, 3), dtype=np.uint8), return_tensors="pt")["pixel_values"].shape == (1, 3, SIZE, SIZE)
    graph = onnx.load(tmp_path / "graph" / "model.onnx").graph
    (entry,) = graph.input
    assert entry.name == "pixel_values"
    dimensions = entry.type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dimensions] == ["batch", 3, SIZE, SIZE]


def test_attention_in_windows_is_exported_and_the_model_stays(tmp_path: Path) -> None:
    """Swin's fused attention has no counterpart in ONNX."""
    torch.manual_seed(0)
    config = SwinConfig(
        num_labels=LABELS, image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    )
    model = SimplexForImageClassification.from_backbone(SwinForImageClassification(config).eval())
    model.image_processor = ViTImageProcessor(size={"height": 32, "width": 32})
    fused = model.backbone.config._attn_implementation
    written = export_graph(model, tmp_path / "graph", point=Point("centroid"))
    batch = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert close(ran(written.file, batch)["logits"], model.backbone_at([1.0])(batch).logits)
    assert fused == "sdpa" and model.backbone.config._attn_implementation == fused


def test_other_points_have_no_temperature_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = calibrated("vit")
    logging.getLogger("transformers").propagate = True
    for point, at in ((Point("vertex", 1), model.backbone_at([0.0, 1.0, 0.0])), (Point("member", 1), None)):
        written = export_graph(model, tmp_path / str(point), format="torch", point=point)
        with torch.no_grad():
            expected = (model.member_backbone(1) if at is None else model.backbone_at([0.0, 1.0, 0.0]))(
                images()
            ).logits
        assert written.temperature is None and close(ran(written.file, images())["logits"], expected)
        assert f"No temperature was fitted for {point}" in caplog.text
    lone = calibrated("vit")
    lone.choose_members([[1.0, 0.0, 0.0]], [{}])
    lone.decisions = Decisions(temperature=1.7)
    written = export_graph(lone, tmp_path / "lone", format="torch", point=Point("member", 0))
    assert written.temperature == 1.7
    assert close(ran(written.file, images())["logits"].log_softmax(-1), lone(images()).logits)


def test_low_rank_adapters_are_merged_in_a_point_and_shared_in_an_ensemble(tmp_path: Path) -> None:
    model = grown("lora", "vit")
    model.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    point = export_graph(model, tmp_path / "point", point=Point("vertex", 1))
    with torch.no_grad():
        assert close(ran(point.file, images())["logits"], model.backbone_at([0.0, 1.0, 0.0])(images()).logits)
    names = {tensor.name for tensor in onnx.load(point.file).graph.initializer}
    assert names and not [name for name in names if "lora" in name]
    whole = export_graph(model, tmp_path / "whole")
    assert close(ran(whole.file, images(5))["logits"], model(images(5)).logits)
    projections = [tensor for tensor in onnx.load(whole.file).graph.initializer if tuple(tensor.dims) == (16, 16)]
    assert len(projections) == 8


def test_members_that_differ_in_the_head_share_the_rest_of_the_graph(tmp_path: Path) -> None:
    model = grown("head", "vit")
    model.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    whole = export_graph(model, tmp_path / "whole")
    assert close(ran(whole.file, images(5))["logits"], model(images(5)).logits)
    normalizations = [node for node in onnx.load(whole.file).graph.node if node.op_type == "LayerNormalization"]
    assert len(normalizations) == 5


def test_graphs_of_large_or_narrow_models_and_their_int8_weights(tmp_path: Path) -> None:
    model = calibrated("vit")
    narrow = copy.deepcopy(model).bfloat16()
    wide = copy.deepcopy(narrow).float()
    written = export_graph(narrow, tmp_path / "graph", point=Point("centroid"), max_file_bytes=100)
    assert narrow.dtype == torch.bfloat16
    assert {"model.onnx", "model.onnx.data"} < contents(tmp_path / "graph").keys()
    expected = wide.write_centroid()(images()).logits.detach() / 0.6
    assert close(ran(written.file, images())["logits"], expected)
    small = export_graph(model, tmp_path / "small", point=Point("centroid"), quantize="int8", max_file_bytes=100)
    files = {"config.json", "preprocessor_config.json", "model_quantized.onnx", "model_quantized.onnx.data"}
    assert contents(tmp_path / "small").keys() == files
    assert {"DynamicQuantizeLinear", "MatMulInteger"} <= {node.op_type for node in onnx.load(small.file).graph.node}
    with torch.no_grad():
        expected = model.write_centroid()(images()).logits / 0.6
    difference = (ran(small.file, images())["logits"] - expected).abs().max()
    assert 0 < difference < 0.1 * expected.std()


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path: Path) -> None:
    model = calibrated("vit")
    for name in ("config.json", "model.onnx", "model.onnx.data", "preprocessor_config.json", "model.pt2"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(ValueError, match=rf"already holds a model \({name}\). Give another output folder"):
            export_graph(model, folder)
        assert contents(folder) == {name: b"mine"}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        export_graph(model, tmp_path / "file")


def test_mistakes_are_named_and_leave_nothing(tmp_path: Path) -> None:
    model, target = calibrated("vit"), tmp_path / "graph"
    with pytest.raises(ValueError, match="format is 'tflite': choose from onnx, torch"):
        export_graph(model, target, format="tflite")
    with pytest.raises(ValueError, match="quantize is 'int4': choose from int8"):
        export_graph(model, target, quantize="int4")
    with pytest.raises(ValueError, match="choose the format onnx"):
        export_graph(model, target, format="torch", quantize="int8")
    with pytest.raises(ValueError, match="kind is 'midpoint'"):
        Point("midpoint")
    for point in (Point("vertex", 3), Point("member", -1), Point("centroid", 1)):
        with pytest.raises(IndexError, match=r"There is no (vertex 3|member -1|simplex 1)"):
            export_graph(model, target, point=point)
    with torch.no_grad():
        model.weights[1]["classifier.bias"][0] = torch.nan
    with pytest.raises(ValueError, match="is not finite, so nothing is exported"):
        export_graph(model, target)
    unfinished = SimplexForImageClassification.from_backbone(backbone("vit"))
    unfinished.add_vertex()
    with pytest.raises(RuntimeError, match="has no members"):
        export_graph(unfinished, target)
    assert not target.exists()


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_import = builtins.__import__

    def without_onnxscript(name: str, *arguments: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "onnxscript":
            raise ImportError("No module named 'onnxscript'")
        return plain_import(name, *arguments, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnxscript)
    with pytest.raises(ImportError, match=r"ONNX needs onnxscript: pip install 'hf-simplex\[onnx\]'"):
        export_graph(calibrated("vit"), tmp_path / "graph")
    assert not (tmp_path / "graph").exists()


def test_code_that_depends_on_values_is_refused_by_name() -> None:
    class Branching(nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": pixel_values if pixel_values.sum() > 0 else -pixel_values}

    class OneBatch(nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": pixel_values.reshape(2, -1)}

    for module in (Branching(), OneBatch()):
        with pytest.raises(RuntimeError, match=r"torch.export cannot trace this backbone for batches of any size"):
            trace(module, images(1)[0])


def test_a_graph_that_onnx_runtime_cannot_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    unknown = onnx.helper.make_node("NoSuchOperation", ["pixel_values"], ["logits"])
    ends = [onnx.helper.make_tensor_value_info(name, 1, [None, 3, 2, 2]) for name in ("pixel_values", "logits")]
    graph = onnx.helper.make_graph([unknown], "graph", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "unknown.onnx")
    for name in ("broken", "unknown"):
        with pytest.raises(RuntimeError, match="ONNX Runtime cannot run the graph"):
            run_onnx(tmp_path / f"{name}.onnx", torch.zeros(1, 3, 2, 2))
