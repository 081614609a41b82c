"""Every mistake at once: what is outside of a file is looked at even where something in it is wrong."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tidegate.config.load import parse
from tidegate.config.model import Agent, Forward, Gateway
from tidegate.config.whole import whole
from tidegate.errors import ConfigError


def mistakes(text: str, model: Any = Gateway, base: str = "") -> list[str]:
    tree = parse(text, "f")
    tree.base = base
    with pytest.raises(ConfigError) as refused:
        whole(model, tree)
    return [mistake.replace(f"{base}/", "") for mistake in refused.value.mistakes]


def test_a_key_of_another_certificate_is_told_beside_a_mistake_in_its_listener(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Authority(tmp_path).issue(name)
    text = (
        "listeners:\n  web:\n    bind: nowhere\n    tls:\n      certificates:\n        - {cert: a.pem, key: b.key}\n"
        "      client_ca: a.key\n      mn_version: 1.3\n"
    )
    assert mistakes(text, base=str(tmp_path)) == [
        "f:3: listeners.web.bind: 'nowhere' is no address to bind (write HOST:PORT, or :PORT for all interfaces)",
        "f:6: listeners.web.tls.certificates[0].key: b.key is not the key of a.pem",
        "f:8: listeners.web.tls: unknown key `mn_version` (did you mean `min_version`?)",
    ]


def test_what_an_agent_names_is_looked_at_beside_its_mistakes() -> None:
    text = (
        "connect: {urls: 'https://gate.example', token_file: token, ca: ca.pem}\nendpoints:\n"
        "  - {name: a, to: 1}\n  - {name: 'b c', to: 2}\n  - {name: a, to: 'https://h', cert: c.pem, key: c.key}\n"
        "log: {level: loud}\n"
    )
    told = [mistake.split(" ", 2)[:2] for mistake in mistakes(text, Agent)]
    assert told == [
        ["f:1:", "connect.token_file:"], ["f:1:", "connect.ca:"], ["f:4:", "endpoints[1].name:"],
        ["f:5:", "endpoints[2]:"], ["f:5:", "endpoints[2].cert:"], ["f:5:", "endpoints[2].key:"],
        ["f:6:", "log.level:"],
    ]  # fmt: skip


def test_ports_of_a_forward_are_compared_beside_its_mistakes() -> None:
    text = "forwards:\n  - {bind: 1, endpoint: a}\n  - {bind: '127.0.0.1:1', endpoint: 'b c'}\nadmin: {bind: ':x'}\n"
    assert [mistake.split(": ")[:2] for mistake in mistakes(text, Forward)] == [
        ["f:3", "forwards[1].endpoint"], ["f:3", "forwards[1].bind"], ["f:4", "admin.bind"],
    ]  # fmt: skip


def test_what_cannot_be_read_is_told_once_and_hides_nothing() -> None:
    text = (
        "admin: {hosts: '${NOWHERE_AT_ALL}'}\nlisteners:\n  web: {bind: '${NOWHERE_AT_ALL}'}\n"
        "log: {level: loud}\nlog: {}"
    )
    assert [mistake.split(": ")[:2] for mistake in mistakes(text)] == [
        ["f:1", "admin.hosts"], ["f:3", "listeners.web.bind"], ["f:4", "log.level"], ["f:5", "log is written twice"],
    ]  # fmt: skip
