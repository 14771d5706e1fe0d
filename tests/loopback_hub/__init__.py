"""A Hugging Face Hub on loopback for tests: the real `huggingface_hub` client talks to it through `HF_ENDPOINT`."""

from .messages import Download, LoggedRequest, Upload
from .repository import Blob, Commit, Repository
from .server import LoopbackHub, foreign_variables

__all__ = ["Blob", "Commit", "Download", "LoggedRequest", "LoopbackHub", "Repository", "Upload", "foreign_variables"]
