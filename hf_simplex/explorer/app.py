"""The app: Gradio's blocks around the explorer's answers. Only this file imports Gradio."""

import secrets
import socket
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import PIL.Image

from .about import About
from .answers import Answer, Answers
from .exploration import Exploration
from .layout import vertex_names
from .panels import (
    ask_panel,
    compare_panel,
    facts_panel,
    gallery_panel,
    head_panel,
    message_panel,
    picker_panel,
    picture_panel,
)
from .wandering import move, settle, wander_state

__all__ = ["ImageStore", "build_app", "check_port", "launch"]

MAX_FILE_SIZE = 50 * 2**20
"""Largest upload in bytes."""

# Uploaded images are deleted when they are a day old, and when the app ends. Otherwise Gradio keeps them.
_HOUR, _DAY = 3600, 86400
_REMEMBERED = 256
_EXAMPLES = 16
_CHOOSE = "Choose an image: upload one, take a picture, paste one, or take one of the validation images."

_PICK = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-index]");
  if (button) trigger("select", { index: Number(button.dataset.index) });
});
"""

Compute = Callable[[Callable[[float, str], Any]], Exploration]
"""Computes what the explorer shows."""


class ImageStore:
    """Keeps the last answers, so that a drag sends no image. An answer is found by a token that nobody can guess.

    Args:
        size: number of answers; the one that was unused for longest goes first.

    Example:
        >>> ImageStore(2).find("no such token") is None
        True
    """

    def __init__(self, size: int = _REMEMBERED) -> None:
        self._size = size
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, answer: Answer) -> str:
        """Keep an answer. Returns its token.

        Example::

            token = store.keep(answers.ask(pixel_values))
        """
        token = secrets.token_hex(16)
        with self._lock:
            self._answers[token] = answer
            while len(self._answers) > self._size:
                self._answers.popitem(last=False)
        return token

    def find(self, token: object) -> Answer | None:
        """Return an answer; None if it is too long ago.

        Example::

            store.find(token)
        """
        with self._lock:
            if not isinstance(token, str) or token not in self._answers:
                return None
            self._answers.move_to_end(token)
            return self._answers[token]


def build_app(answers: Answers, about: About, compute: Compute | None = None) -> Any:
    """Build the app.

    Args:
        answers: of the ensemble.
        about: of the ensemble.
        compute: computes the surfaces where there are none; None offers no such button.

    Returns:
        `gradio.Blocks`.

    Raises:
        ImportError: Gradio is not installed.

    Example::

        build_app(Answers(model, find_exploration("ensemble")), describe(model, "ensemble")).launch()
    """
    gradio = _import_gradio()
    return _Page(gradio, answers, about, compute).blocks


def launch(blocks: Any, *, host: str = "127.0.0.1", port: int | None = None, **options: Any) -> Any:
    """Serve the app.

    Args:
        blocks: of `build_app`.
        host: address to listen at.
        port: default: the first free one from 7860.
        **options: further ones of `gradio.Blocks.launch`.

    Returns:
        What `gradio.Blocks.launch` returns.

    Raises:
        OSError: the port is taken.

    Example::

        launch(build_app(answers, about), port=7861)
    """
    if port is not None:
        check_port(host, port)
    gradio = _import_gradio()
    look = {
        "theme": gradio.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        "css": _static("explorer.css"),
    }
    return blocks.launch(
        server_name=host, server_port=port, max_file_size=MAX_FILE_SIZE, footer_links=["settings"], **look, **options
    )


def check_port(host: str, port: int) -> None:
    """Check that a port is free.

    Raises:
        OSError: it is taken, or may not be listened at.

    Example:
        >>> check_port("127.0.0.1", 0)
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(
                f"Port {port} of {host} cannot be used ({error.strerror}). Give another with --port; without it, the "
                "first free one from 7860 is taken."
            ) from error


class _Page:
    """The blocks and what they call."""

    def __init__(self, gradio: Any, answers: Answers, about: About, compute: Compute | None) -> None:
        self.gradio, self.answers, self.about, self.compute = gradio, answers, about, compute
        self.store = ImageStore()
        self.computing = threading.Lock()
        self._disagreeing: str | None = None
        # Deleted with this object. The events of the blocks hold a reference to it.
        self._directory = tempfile.TemporaryDirectory(prefix="hf-simplex-examples-")
        self.examples = Path(self._directory.name)
        config = answers.model.config
        names = vertex_names(config.roles)
        self.members = [
            f"member {number}: {_point_name(point, names)}{', statistics recomputed' * recomputed}"
            for number, (point, recomputed) in enumerate(
                zip(config.members, answers.recomputed_members(), strict=True)
            )
        ]
        with gradio.Blocks(
            title=f"{about.name}: simplex explorer",
            analytics_enabled=False,
            fill_width=False,
            delete_cache=(_HOUR, _DAY),
        ) as self.blocks:
            self._build()

    def _build(self) -> None:
        gradio, answers, about = self.gradio, self.answers, self.about
        gradio.HTML(head_panel(about.name, about.facts))
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                self.image = gradio.Image(
                    label="Image",
                    type="filepath",
                    sources=["upload", "webcam", "clipboard"],
                    # By default, Gradio flips photographs from left to right.
                    webcam_options=gradio.WebcamOptions(mirror=False),
                    height=300,
                    elem_id="image",
                )
                # Gradio would open the file itself, and answer a broken one with an error that says nothing.
                self.image.preprocess = self._uploaded
                self.picker = gradio.HTML(
                    self._picker(),
                    # A click anywhere else in the component is none on an image.
                    js_on_load=_PICK,
                    elem_id="examples",
                )
            with gradio.Column(scale=2, min_width=320), gradio.Tabs():
                with gradio.Tab("Ask", id="ask"):
                    self.asked = gradio.HTML(message_panel(_CHOOSE), elem_id="asked")
                with gradio.Tab("Wander", id="wander"):
                    self.wander = gradio.HTML(
                        value=wander_state(answers, None),
                        html_template='<div class="sx-wander"></div>',
                        js_on_load=_static("paths.js") + _static("wander.js"),
                        server_functions=[self._server("move", self._move), self._server("settle", self._settle)],
                        elem_id="wander",
                    )
                    if self.compute is not None and answers.exploration is None:
                        self.button = gradio.Button("Compute the surfaces", elem_id="compute")
                        self.computed = gradio.HTML(elem_id="computed")
                        self.button.click(
                            self._explorer(), None, [self.computed, self.wander, self.picker], concurrency_limit=1
                        )
                with gradio.Tab("Compare", id="compare") as compare_tab:
                    self.compared = gradio.HTML(message_panel(_CHOOSE), elem_id="compared")
                    self.disagreement = gradio.HTML(elem_id="disagreement")
                with gradio.Tab("About", id="about"):
                    gradio.HTML(facts_panel("Structure", about.structure))
                    if pictures := picture_panel(about.pictures):
                        gradio.HTML(pictures)
                    if about.card:
                        gradio.Markdown(about.card, sanitize_html=True, latex_delimiters=[])
        outputs = [self.asked, self.wander, self.compared]
        # Two at a time: more would only share the same cores.
        self.image.change(self._ask, self.image, outputs, concurrency_limit=2, show_progress="minimal")
        self.picker.select(self._chooser(), None, self.image, concurrency_limit=4, show_progress="hidden")
        compare_tab.select(self._disagreement, None, self.disagreement, concurrency_limit=1)

    # ---- events ------------------------------------------------------------------------------------------------

    def _ask(self, source: str | None) -> tuple[Any, ...]:
        """An image was chosen, or removed."""
        if source is None:
            return message_panel(_CHOOSE), wander_state(self.answers, None), message_panel(_CHOOSE)
        try:
            answer = self.answers.ask(self.answers.read(source))
        except ValueError as error:
            message = message_panel(str(error))
            return message, wander_state(self.answers, None), message
        names = self.answers.names
        asked = ask_panel(answer, self.answers.model.decisions, names, self.members)
        return asked, wander_state(self.answers, self.store.keep(answer)), compare_panel(answer, names)

    def _move(self, asked: Any) -> dict[str, Any]:
        answer = self.store.find(asked["token"])
        if answer is None:
            return {"error": "This image is too long ago. Choose it again."}
        return move(self.answers, answer, asked["coordinates"])

    def _settle(self, asked: Any) -> dict[str, Any]:
        return settle(self.answers, asked["coordinates"])

    def _server(self, name: str, answer: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        """A function that the page calls by name. Whatever it sends, the answer is a dictionary."""

        def call(asked: Any) -> dict[str, Any]:
            try:
                return answer(asked)
            except (ValueError, TypeError, KeyError) as error:
                return {"error": f"This point cannot be shown: {error}"}

        call.__name__ = name
        return call

    def _chooser(self) -> Callable[[Any], str]:
        def choose(event: Any) -> str:
            return str(self.examples / f"{int(event.index)}.png")

        # Gradio gives the event to an argument of this type.
        choose.__annotations__["event"] = self.gradio.EventData
        return choose

    def _disagreement(self) -> str:
        exploration = self.answers.exploration
        if exploration is None:
            return gallery_panel([], self.answers.names, "", "")
        with self.computing:
            if self._disagreeing is None:
                rows = [
                    (exploration.images[index], self._label(exploration, index), answer, information)
                    for index, answer, information in self.answers.gallery()
                ]
                self._disagreeing = gallery_panel(rows, self.answers.names, exploration.data_set, exploration.split)
            return self._disagreeing

    def _explorer(self) -> Callable[..., tuple[Any, ...]]:
        gradio = self.gradio

        def explore(progress: Any = gradio.Progress()) -> tuple[Any, ...]:  # noqa: B008
            with self.computing:
                if self.answers.exploration is None:
                    assert self.compute is not None
                    try:
                        found = self.compute(lambda share, what: progress(share, desc=what))
                        self.answers.explore_with(found)
                    except (OSError, ValueError, RuntimeError, ImportError) as error:
                        return message_panel(str(error)), gradio.skip(), gradio.skip()
            return message_panel("Computed. Choose an image."), wander_state(self.answers, None), self._picker()

        return explore

    # ---- images ------------------------------------------------------------------------------------------------

    def _uploaded(self, payload: Any) -> str | None:
        """The path of an uploaded file or example, unopened. A request must not make the server read anything else."""
        if payload is None:
            return None
        # Gradio checks the paths of requests only if they say that they name a file.
        folder = Path(self.image.GRADIO_CACHE).resolve()
        file = Path(payload.path or "").resolve()
        if not (file.is_relative_to(folder) and file.is_file()):
            raise self.gradio.Error("Upload the image. Paths and URLs are not opened.", print_exception=False)
        return str(file)

    def _picker(self) -> str:
        """Write some validation images to files, those of most disagreement first, and show them as buttons."""
        exploration = self.answers.exploration
        if exploration is None:
            return ""
        order = list(dict.fromkeys([*exploration.gallery[: _EXAMPLES // 2], *range(len(exploration.images))]))
        shown = []
        for place, index in enumerate(order[:_EXAMPLES]):
            PIL.Image.fromarray(exploration.images[index].numpy()).save(self.examples / f"{place}.png")
            shown.append((exploration.images[index], self._label(exploration, index)))
        return picker_panel(shown)

    def _label(self, exploration: Exploration, index: int) -> str:
        return str(self.answers.names[int(exploration.labels[index])])


def _point_name(point: Sequence[float], names: Sequence[str]) -> str:
    corners = [(share, name) for share, name in zip(point, names, strict=True) if share > 0]
    if len(corners) == 1:
        return corners[0][1]
    shares = {round(share, 3) for share, _ in corners}
    if len(shares) == 1:
        return f"centre of {', '.join(name for _, name in corners)}"
    return ", ".join(f"{name} {100 * share:.0f} %" for share, name in corners)


def _static(name: str) -> str:
    return files("hf_simplex.explorer").joinpath("static", name).read_text("utf-8")


def _import_gradio() -> Any:
    try:
        # Gradio is optional, and slow to import.
        import gradio
    except ImportError as error:
        raise ImportError('The explorer needs Gradio: pip install "hf-simplex[demo]".') from error
    return gradio
