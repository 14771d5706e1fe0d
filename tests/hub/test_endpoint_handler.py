"""handler.py of a published repository, called as an inference endpoint does: with and without hf_simplex."""

import base64
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, snapshot_download
from loopback_hub import LoopbackHub
from PIL import Image
from tiny import LABELS, PICTURE, complete
from without_the_package import HIDE_THE_PACKAGE

from hf_simplex import SimplexForImageClassification, SimplexImageClassificationPipeline
from hf_simplex.hub.publishing import publish_folder
from hf_simplex.model.decisions import Abstention, Decisions, PredictionSets

REPO = "alice/ensemble"

WITHOUT_THE_PACKAGE = """
import importlib.util, json, os

spec = importlib.util.spec_from_file_location("handler", os.path.join(os.environ["FOLDER"], "handler.py"))
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(os.environ["FOLDER"])
assert type(handler.classify).__module__.startswith("transformers_modules.")
print(json.dumps(handler(json.loads(os.environ["REQUEST"]))))
"""


def png(image: Image.Image = PICTURE) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def model() -> SimplexForImageClassification:
    made = complete()
    made.decisions = Decisions(
        temperature=1.3,
        abstention=Abstention(0.05, 0.95, threshold=0.9),
        prediction_sets=PredictionSets("lac", 0.9, quantile=0.8),
        uncertainty_quantiles={"mutual_information": [index / 1e4 for index in range(101)]},
    )
    return made


def handler_in(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


def test_an_endpoint_answers_with_what_the_pipeline_returns(hub: LoopbackHub, tmp_path: Path) -> None:
    made = model()
    made.push_to_hub(REPO, with_handler=True)
    folder = Path(snapshot_download(REPO))
    expected = SimplexImageClassificationPipeline(model=made, image_processor=made.image_processor)(PICTURE)
    handler = handler_in(folder)
    for inputs in (text(png()), f"data:image/png;base64,{text(png())}", png(), PICTURE):
        answer = handler({"inputs": inputs})
        assert json.loads(json.dumps(answer)) == expected
    assert len(expected["labels"]) == LABELS and expected["calibrated"] is True
    first = handler({"inputs": [text(png()), PICTURE], "parameters": {"top_k": 1}})
    assert [len(entry["labels"]) for entry in first] == [1, 1] and first[0] == first[1]
    assert handler({"inputs": []}) == []

    request = {"inputs": text(png()), "parameters": {"top_k": 2}}
    environment = {"FOLDER": str(folder), "REQUEST": json.dumps(request)}
    printed = hub.run_python(HIDE_THE_PACKAGE + WITHOUT_THE_PACKAGE, env=environment, cwd=tmp_path, timeout=600)
    assert json.loads(printed.splitlines()[-1]) == handler(request)


def test_a_bad_request_says_what_is_expected_and_reads_no_file(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "ensemble")
    source = Path(str(importlib.util.find_spec("hf_simplex.hub.endpoint_handler").origin))  # type: ignore[union-attr]
    (tmp_path / "ensemble" / "handler.py").write_bytes(source.read_bytes())
    (tmp_path / "secret.png").write_bytes(png())
    handler = handler_in(tmp_path / "ensemble")
    for request, message in {
        "no dictionary": "The request has no 'inputs'",
        "{}": "The request has no 'inputs'",
        '{"inputs": null}': "Image 0 is a NoneType: expected the base64 text of an image file",
        '{"inputs": {"url": "x"}}': "Image 0 is a dict",
        '{"inputs": "http://127.0.0.1/x.png"}': r"is no base64 text: .* URLs and paths are not opened",
        f'{{"inputs": "{tmp_path}/secret.png"}}': "is no base64 text",
        f'{{"inputs": "{text(b"no image")}"}}': "Image 0 cannot be read",
        f'{{"inputs": ["{text(png())}", "{text(png()[:200])}"]}}': "Image 1 cannot be read",
        f'{{"inputs": "{text(png())}", "parameters": {{"batch": 2}}}}': "The parameter 'batch' is unknown",
        f'{{"inputs": "{text(png())}", "parameters": {{"top_k": 0}}}}': "top_k is 0: expected a whole number",
        f'{{"inputs": "{text(png())}", "parameters": {{"top_k": "3"}}}}': "top_k is '3'",
        f'{{"inputs": "{text(png())}", "parameters": [3]}}': "expected a dictionary of top_k",
    }.items():
        with pytest.raises(ValueError, match=message):
            handler(json.loads(request) if request.startswith("{") else request)


def test_a_handler_of_the_user_is_not_replaced(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "ensemble"
    model().save_pretrained(folder)
    publish_folder(folder, REPO)
    assert "handler.py" not in HfApi().list_repo_files(REPO)
    ours = Path(str(importlib.util.find_spec("hf_simplex.hub.endpoint_handler").origin))  # type: ignore[union-attr]
    for mine in (f"{ours.read_text()}\n# Changed by me.\n", "class EndpointHandler: ...\n"):
        (folder / "handler.py").write_text(mine)
        with pytest.raises(ValueError, match=r"handler\.py is not the handler of this version of hf-simplex"):
            publish_folder(folder, REPO, with_handler=True)
    publish_folder(folder, REPO)
    assert "handler.py" in HfApi().list_repo_files(REPO)
    (folder / "handler.py").unlink()
    publish_folder(folder, REPO, with_handler=True)
    again = Path(snapshot_download(REPO, local_dir=tmp_path / "again"))
    publish_folder(again, "alice/second", with_handler=True)
    content = Path(snapshot_download("alice/second"), "handler.py").read_text()
    assert content == (again / "handler.py").read_text() and "class EndpointHandler:\n" in content
