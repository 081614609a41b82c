"""After all of it no key, token or password stands anywhere that somebody reads: logs, status, metrics, errors."""

from __future__ import annotations

import base64
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bcrypt

from tests.interop.programs import PikoAgent
from tests.support.http import Response, request
from tests.support.issuer import Issuer, basic, bearer
from tests.support.process import Program
from tests.support.raw import Raw, told_by
from tests.support.service import Service
from tests.support.tidegate import Agent, Forward, Gateway, command
from tests.system.guarded import LOCAL, UPGRADE, knock

PASSWORD, WRONG = "correct-horse-battery", "another-wrong-password"
IN_ENVIRONMENT = "an-environment-secret-that-is-long-enough-for-it"
FIELDS = ("Authorization", "x-piko-authorization", "x-tidegate-authorization")


class Secrets:
    """Keys in files, of a command and in the environment, tokens good and bad, and a password."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.main, self.printed, self.ops = (Issuer(folder, name=name) for name in ("main", "printed", "ops"))
        self.elliptic = Issuer(folder, "ES256", name="elliptic")
        self.hash = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        self.users = folder / "users"
        self.users.write_text(f"ann:{self.hash}\n")
        good = self.main.token("*", tenant="acme")
        self.good = {"good": good, "elliptic": self.elliptic.token("*")}
        self.bad = {
            "expired": self.main.token("*", expires=-9),
            "forged": Issuer(folder, name="stranger").token("*"),
            "narrow": self.main.token("nothing"),
            "cut": good[:-4],
        }
        self.of_admin = self.ops.token()

    def all(self) -> dict[str, str]:
        """What nobody may read, by what it is. The first parts of a token are no secret by themselves."""
        tokens = {**self.good, **self.bad, "of admin": self.of_admin}
        keys = {"main": self.main, "of a command": self.printed, "of admin": self.ops}
        return {
            **{f"signature of the token {name}": token.rpartition(".")[2][:20] for name, token in tokens.items()},
            **{f"key {name}": issuer.public.decode() for name, issuer in keys.items()},
            "key of the environment": IN_ENVIRONMENT,
            "password": PASSWORD,
            "wrong password": WRONG,
            "hash": self.hash,
            "field of the password": base64.b64encode(f"ann:{PASSWORD}".encode()).decode(),
        }

    def config(self, service: Service) -> dict[str, Any]:
        """A gateway that reads a secret in every way."""
        auth = {"verifiers": ["main", "elliptic", "command", "variable"]}
        return {
            "verifiers": {
                "main": self.main.source,
                "elliptic": self.elliptic.source,
                "command": {"secret": {"command": ["cat", str(self.printed.file)]}},
                "variable": {"secret": {"env": "TIDEGATE_TEST_SECRET"}},
                "ops": self.ops.source | {"unlimited": True},
            },
            "tenants": {"acme": {"limits": {"requests": 1000}}},
            "listeners": {
                "agents": {"bind": LOCAL, "kind": "tunnel", "auth": auth},
                "proxy": {"bind": LOCAL, "auth": auth, "dynamic_endpoints": {"allow": ["web"]}},
            },
            "routes": [
                {
                    "host": "shop.test",
                    "to": {"addresses": [service.address]},
                    "auth": {"users": {"file": str(self.users)}},
                }
            ],
            "admin": {"bind": LOCAL, "auth": {"verifiers": ["ops"]}},
            "log": {"level": "debug"},
        }


def agents(stack: ExitStack, gateway: Gateway, service: Service, secrets: Secrets) -> list[Program]:
    """Agents and forwards that come in, and that do not."""
    started: list[Program] = []
    for name, token in {**secrets.good, **secrets.bad}.items():
        file = secrets.folder / f"{name}.token"
        file.write_text(token)
        ways = (("--token", token), ("--token-file", str(file)), ("--token-command", f"cat {file}"))
        for way in ways if name in ("good", "expired") else ways[1:2]:
            to = (gateway.agents, "http", "web", service.address, *way, "--log-level", "debug")
            agent = stack.enter_context(Agent(*to, wait=False))
            started.append(agent)
            if name in secrets.good:
                agent.until_connected()
            else:
                agent.wait()
    forward = stack.enter_context(Forward(gateway.proxy, "web", "--token", secrets.bad["expired"]))
    assert told_by(forward.address) == b""
    shown = ("--token", secrets.good["good"])
    piko = stack.enter_context(PikoAgent(gateway.agents, "http", "piko", "127.0.0.1:1", *shown))
    return [*started, forward, piko]


def visits(gateway: Gateway, secrets: Secrets) -> list[str]:
    """What visitors are told who show something in every place."""
    heard: list[Response] = []
    said: list[str] = []
    for token in [*secrets.good.values(), *secrets.bad.values(), secrets.of_admin]:
        for field in FIELDS:
            heard.append(request(gateway.proxy, endpoint="web", headers=bearer(token, field)))
            heard.append(knock(gateway.agents, "nothing!", bearer(token, field)))
        for field in (f"Authorization: Bearer {token}\r\n" * 2, f"Authorization: Bearer {token}\x01\r\n"):
            with Raw(gateway.proxy) as raw:
                raw.send(f"GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n".encode())
                said.append(raw.rest().decode())
    shown = [{"Host": "shop.test", **basic("ann", password)} for password in (PASSWORD, WRONG)]
    heard += [request(gateway.proxy, headers=each) for each in shown]
    headers = {**UPGRADE, **bearer(secrets.bad["narrow"])}
    heard.append(request(gateway.proxy, "/_piko/v1/tcp/web", headers=headers))
    assert {response.status for response in heard} >= {200, 401}
    return said + [f"{response.headers}\n{response.text}" for response in heard]


def shown(gateway: Gateway, secrets: Secrets) -> list[str]:
    """What operators see."""
    said = [Path(f"/proc/{gateway.pid}/cmdline").read_bytes().decode()]
    for token in (secrets.of_admin, secrets.bad["forged"]):
        paths = ("/status", "/status/config", "/status/endpoints/web?tenant=acme", "/metrics")
        said.extend(request(gateway.admin, path, headers=bearer(token)).text for path in paths)
    for words in (("show",), ("check",), ("show", "-o", "json")):
        line = command("config", *words, "--config", gateway.file)
        ended = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        said.append(ended.stdout + ended.stderr)
    return said


def test_nothing_secret_is_ever_said(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path)
    all_secrets = secrets.all()
    with ExitStack() as stack:
        service = stack.enter_context(Service())
        config = secrets.config(service)
        gateway = stack.enter_context(Gateway(config, env={"TIDEGATE_TEST_SECRET": IN_ENVIRONMENT}))
        programs = agents(stack, gateway, service, secrets)
        said = visits(gateway, secrets)
        # Keys that are wrong: one that is another, one that is none.
        wrong = {"main": {"secret": {"file": str(secrets.users)}}}
        gateway.write(config | {"verifiers": config["verifiers"] | wrong})
        gateway.event("configuration applied")
        secrets.main.file.write_text("")
        gateway.write(config)
        gateway.event("configuration refused")
        said += shown(gateway, secrets) + [program.log for program in (gateway, *programs)]
        received = bytes(service.received).decode()

    whole = "\n".join(said)
    for everywhere in ("agent refused", "invalid token", "tidegate_credentials_refused_total", "verifiers"):
        assert everywhere in whole
    for name, secret in all_secrets.items():
        assert secret not in received, f"{name} reached the service"
        where = whole.find(secret)
        assert where < 0, f"{name}: {whole[max(0, where - 300) : where + 50]}"
