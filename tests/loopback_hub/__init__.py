"""A Hugging Face Hub on loopback. The real `huggingface_hub` talks to it through `HF_ENDPOINT`."""

from .client import lead_clients_to
from .messages import Download, LoggedRequest, Upload
from .repository import Blob, Commit, Repository
from .server import LoopbackHub

__all__ = ["Blob", "Commit", "Download", "LoggedRequest", "LoopbackHub", "Repository", "Upload", "lead_clients_to"]
