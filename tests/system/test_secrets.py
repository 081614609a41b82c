"""After all of it no key, token or password stands anywhere that somebody reads: logs, status, metrics, errors."""

from __future__ import annotations

import base64
import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bcrypt

from tests.interop.programs import PikoAgent
from tests.support.http import Response, request
from tests.support.issuer import Issuer, basic, bearer
from tests.support.process import Program
from tests.support.raw import Raw
from tests.support.service import Service
from tests.support.tidegate import Agent, Forward, Gateway, command
from tests.system.guarded import LOCAL, UPGRADE, knock

PASSWORD = "correct-horse-battery"


def parts(secret: str) -> list[str]:
    """What of a secret would give it away; a token's first parts are no secret by themselves."""
    return [secret.rpartition(".")[2], secret] if secret.count(".") == 2 else [secret]


def test_nothing_secret_is_ever_said(tmp_path: Path) -> None:
    hmac, other, ops = (Issuer(tmp_path, name=name) for name in ("main", "other", "ops"))
    elliptic = Issuer(tmp_path, "ES256", name="elliptic")
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    users = tmp_path / "users"
    users.write_text(f"ann:{hashed}\n")
    env_secret = "an-environment-secret-that-is-long-enough-for-it"
    printed = tmp_path / "print.sh"
    printed.write_text(f"#!/bin/sh\necho {other.public.decode()}\n")
    printed.chmod(0o700)

    good, elsewhere = hmac.token("*", tenant="acme"), elliptic.token("*")
    tokens = {
        "good": good,
        "elliptic": elsewhere,
        "expired": hmac.token("*", expires=-9),
        "forged": Issuer(tmp_path, name="stranger").token("*"),
        "narrow": hmac.token("nothing"),
        "typo": good[:-4],
        "ops": ops.token(),
        "line": good + "\x7f",
    }
    secrets = {
        "hmac key": hmac.public.decode(),
        "key of a command": other.public.decode(),
        "key of the environment": env_secret,
        "key of admin": ops.public.decode(),
        "password": PASSWORD,
        "hash": hashed,
        "basic": base64.b64encode(f"ann:{PASSWORD}".encode()).decode(),
        "wrong password": "another-wrong-password",
        **{f"token: {name}": token.strip("\x7f") for name, token in tokens.items()},
    }
    names = ["main", "elliptic", "command", "variable"]
    auth = {"verifiers": names}
    dynamic = {"dynamic_endpoints": {"allow": ["web"]}}
    config: dict[str, Any] = {
        "verifiers": {
            "main": hmac.source,
            "elliptic": elliptic.source,
            "command": {"secret": {"command": [str(printed)]}},
            "variable": {"secret": {"env": "TIDEGATE_TEST_SECRET"}},
            "ops": ops.source | {"unlimited": True},
        },
        "tenants": {"acme": {"limits": {"requests": 1000}}},
        "listeners": {
            "agents": {"bind": LOCAL, "kind": "tunnel", "auth": auth},
            "proxy": {"bind": LOCAL, "auth": auth, **dynamic},
        },
        "admin": {"bind": LOCAL, "auth": {"verifiers": ["ops"]}},
        "log": {"level": "debug"},
    }
    said: list[str] = []

    def heard(response: Response) -> Response:
        said.append(f"{response.headers}\n{response.text}")
        return response

    with ExitStack() as stack:
        service = stack.enter_context(Service())
        to = {"addresses": [service.address]}
        config["routes"] = [{"host": "shop.test", "to": to, "auth": {"users": {"file": str(users)}}}]
        gateway = stack.enter_context(Gateway(config, env={"TIDEGATE_TEST_SECRET": env_secret}))
        programs: list[Program] = [gateway]

        # Agents and forwards that come in, and that do not.
        for name, token in tokens.items():
            if name in ("ops", "line"):
                continue
            file = tmp_path / f"{name}.token"
            file.write_text(token)
            for words in (("--token", token), ("--token-file", str(file)), ("--token-command", f"cat {file}")):
                to_web = (gateway.agents, "http", "web", service.address, *words, "--log-level", "debug")
                agent = stack.enter_context(Agent(*to_web, wait=False))
                programs.append(agent)
                if name not in ("good", "elliptic"):
                    agent.wait()
                else:
                    agent.until_connected()
        forward = stack.enter_context(Forward(gateway.proxy, "web", "--token", tokens["expired"]))
        programs.append(forward)
        with Raw(forward.address) as downstream:
            downstream.rest()
        programs.append(stack.enter_context(PikoAgent(gateway.agents, "http", "piko", "127.0.0.1:1", "--token", good)))

        # Visitors by every header, good and bad; in places where none belongs too.
        for token in tokens.values():
            for field in ("Authorization", "x-piko-authorization", "x-tidegate-authorization"):
                if token.isprintable():
                    heard(request(gateway.proxy, endpoint="web", headers=bearer(token, field)))
                    heard(knock(gateway.agents, "nothing!", bearer(token, field)))
            with Raw(gateway.proxy) as raw:
                field = f"Authorization: Bearer {token}\r\n"
                raw.send(f"GET / HTTP/1.1\r\nHost: a\r\n{field}{field}\r\n".encode())
                said.append(str(raw.rest()))
        for password in (PASSWORD, "another-wrong-password"):
            heard(request(gateway.proxy, headers={"Host": "shop.test", **basic("ann", password)}))
        heard(request(gateway.proxy, "/_piko/v1/tcp/web", headers={**UPGRADE, **bearer(tokens["narrow"])}))

        # What breaks on the way: a reload with keys that are wrong.
        gateway.write(config | {"verifiers": config["verifiers"] | {"main": {"secret": {"file": str(users)}}}})
        gateway.event("configuration applied")
        hmac.file.write_text("")
        gateway.write(config)
        gateway.event("configuration refused")

        for path in ("/status", "/status/config", "/status/endpoints/web?tenant=acme", "/metrics", "/status/upstreams"):
            for shown in ({}, bearer(tokens["ops"]), bearer(tokens["forged"])):
                heard(request(gateway.admin, path, headers=shown))
        for words in (("config", "show"), ("config", "check"), ("config", "show", "-o", "json")):
            ended = subprocess.run(
                command(*words, "--config", gateway.file), capture_output=True, text=True, timeout=60, check=False
            )
            said.append(ended.stdout + ended.stderr)
        cmdline = Path(f"/proc/{gateway.pid}/cmdline").read_bytes().decode()
        said += [cmdline, *(program.log for program in programs)]

        # The upstream sees no credential of ours; what it got is the test's to see.
        received = bytes(service.received).decode()

    whole = "\n".join(said)
    assert len(whole) > 10_000
    assert json.dumps("agent refused") in whole
    for name, secret in secrets.items():
        for part in parts(secret):
            assert part not in received, f"{name} reached the service"
            where = whole.find(part)
            assert where < 0, f"{name}: {whole[max(0, where - 300) : where + 50]}"
