"""Configurations for a running gateway: good ones that can be told apart, and every way to break one."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.support.tidegate import Gateway

BIND = "127.0.0.1:0"


def says(word: str, **more: Any) -> dict[str, Any]:
    """A configuration whose every answer is this word."""
    return {"routes": [{"path": "/", "respond": {"status": 200, "body": word}}], **more}


def taken() -> tuple[socket.socket, str]:
    """A port that somebody else has."""
    holder = socket.create_server(("127.0.0.1", 0))
    return holder, f"127.0.0.1:{holder.getsockname()[1]}"


def broken(gateway: Gateway, port: str) -> dict[str, tuple[str, str]]:
    """Ways to break a configuration: what is written, and what is said about it."""

    def text(**more: Any) -> str:
        return json.dumps({**gateway.config, **says("broken"), **more})

    listeners = gateway.config["listeners"]
    tls = {"bind": BIND, "tls": {"certificates": [{"cert": "gone.pem", "key": "gone.key"}]}}
    return {
        "empty": ("", "is empty"),
        "only a comment": ("# listeners: {}\n", "is empty"),
        "half written": (text()[: len(text()) // 2], "expected"),
        "an unknown key": (text(rotues=[]), "did you mean `routes`?"),
        "a wrong value": (text(limits={"head_fields": "many"}), "limits.head_fields"),
        "a port that is taken": (text(listeners={**listeners, "more": {"bind": port}}), "is in use by"),
        "a certificate that is missing": (text(listeners={**listeners, "more": tls}), "gone.pem"),
        "an upstream that is unknown": (text(routes=[{"path": "/", "to": {"upstream": "nobody"}}]), "nobody"),
        "more workers": (text(workers=7), "take a restart"),
        "another admin address": (text(admin={"bind": "127.0.0.1:1"}), "takes a restart"),
    }
