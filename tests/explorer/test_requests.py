"""What a stranger can ask of the app over HTTP, beside what its page asks."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from browsers import serving
from gradio_client import Client, handle_file
from tiny_explorer import explored, named, pictures, written

from hf_simplex.explorer.answers import Answers


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    model = named("vit")
    with serving(Answers(model, explored(model))) as found:
        yield found.rstrip("/")


def ask(address: str, image: dict[str, Any]) -> str:
    """What the server sends for an image, as a program without Gradio asks for it."""
    call = httpx.post(f"{address}/gradio_api/call/_ask", json={"data": [image]}, timeout=60).raise_for_status()
    return httpx.get(f"{address}/gradio_api/call/_ask/{call.json()['event_id']}", timeout=60).text


def test_a_request_makes_the_server_read_no_file_and_no_address(address: str, tmp_path: Path) -> None:
    secret = written(tmp_path, pictures()[0]["image"], "secret.png")
    asked: list[str] = []

    class Inside(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(secret.read_bytes())

        def log_message(self, *arguments: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Inside)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/secret.png"
    meta = {"meta": {"_type": "gradio.FileData"}}
    try:
        for image in ({"url": url}, {"path": url}, {"url": str(secret)}, {"path": str(secret)}, {"path": "none.png"}):
            for told in ({}, meta):
                answer = ask(address, {**image, **told})
                assert "event: error" in answer and "sx-" not in answer, image
    finally:
        server.shutdown()
    assert not asked
    client = Client(address, verbose=False)
    shown, _, _ = client.predict(handle_file(secret), api_name="/_ask")
    assert "sx-members" in shown, "an uploaded file is read"


def test_uploaded_images_go_with_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = tmp_path / "uploads"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    with serving(Answers(named("vit"))) as address:
        picture = written(tmp_path, pictures()[0]["image"])
        shown, _, _ = Client(address, verbose=False).predict(handle_file(picture), api_name="/_ask")
        assert "sx-members" in shown and list(uploads.rglob("*.png"))
    assert not list(uploads.rglob("*.png"))
