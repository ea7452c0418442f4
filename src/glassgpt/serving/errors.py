"""Errors that clients see, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

from glassgpt.errors import GlassGPTError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
}
"""OpenAI's error types by status; every other status is a `server_error`."""


class APIError(GlassGPTError):
    """An error that is sent to the client.

    Attributes:
        status: of the HTTP response.
        param: the field of the request that is invalid.
        code: a short name for programs.
        retry_after: seconds after which the client may try again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the response."""
        kind = TYPES.get(self.status, "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return the headers of the response that go beyond those of every response."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        headers |= {"www-authenticate": "Bearer"} if self.status == 401 else {}
        return headers | ({"x-should-retry": "false"} if self.code == "timeout" else {})
