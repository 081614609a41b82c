"""Answers of the admin listener: JSON that a person can read too."""

import json
from typing import Any

from starlette.responses import Response

__all__ = ["as_json", "error"]


def as_json(body: Any, status: int = 200) -> Response:
    """A JSON answer that a person can read too."""
    text = json.dumps(body, indent=2) + "\n"
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(text, status, media_type="application/json", headers=headers)


def error(status: int, what: str, detail: str) -> Response:
    """An error as JSON."""
    return as_json({"error": what, "detail": detail}, status)
