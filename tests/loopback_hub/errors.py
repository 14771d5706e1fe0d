"""How the Hub says no."""

from collections.abc import Mapping


class HubError(Exception):
    """An answer with an error status.

    Args:
        status: HTTP status.
        message: what the client is told, in the body and in `X-Error-Message`.
        code: `X-Error-Code`, from which `huggingface_hub` chooses the exception that it raises.
        headers: more headers.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})
