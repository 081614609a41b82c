"""`tidegate nanoproxy`: what NanoProxy does, and what it should have done."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.certificates import Authority
from tests.support.http import Response, request
from tests.support.predecessors import NanoProxy, save_by_rename
from tests.support.process import until
from tests.support.raw import Raw, at
from tests.support.relay import Relay
from tests.support.service import Exchange, Service, echo

NO_RULE = "No matching rule for host & path"


def upstream(name: str, service: Service | Relay, **more: object) -> dict[str, object]:
    """An entry of `upstreams`."""
    return {"name": name, "host": "127.0.0.1", "port": service.port, **more}


def written(upstreams: list[dict[str, object]], rules: list[dict[str, object]]) -> str:
    """The text of a `config.yaml`."""
    return yaml.safe_dump({"upstreams": upstreams, "rules": rules})


def named(text: str) -> Callable[[Exchange], None]:
    """Answers with this name and the target."""

    def answer(exchange: Exchange) -> None:
        exchange.read()
        exchange.answer(body=f"{text} {exchange.target}".encode())

    return answer


@dataclass
class Place:
    """A proxy with rules for everything, and its services."""

    proxy: NanoProxy
    one: Service
    two: Service
    seen: Service

    def get(self, path: str, host: str = "any.example") -> Response:
        """Asks for a path."""
        return request(self.proxy.proxy, path, headers={"Host": host})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """`one` and `two` answer with their names, `seen` with what it got."""
    with ExitStack() as stack:
        one, two = stack.enter_context(Service(named("one"))), stack.enter_context(Service(named("two")))
        seen = stack.enter_context(Service(echo))
        text = written(
            [upstream("one", one), upstream("two", two), upstream("seen", seen),
             upstream("renamed", seen, noHostRewrite=True)],
            [
                {"upstream": "nobody", "path": "/api"},
                {"upstream": "one", "path": "/api", "stripPath": True},
                {"upstream": "two", "path": "/api/deeper"},
                {"upstream": "two", "path": "/exact", "matchMode": "exact"},
                {"upstream": "two", "path": "/", "host": "Two.example"},
                {"upstream": "seen", "path": "/seen"},
                {"upstream": "renamed", "path": "/renamed"},
            ],
        )  # fmt: skip
        proxy = NanoProxy(tmp_path_factory.mktemp("nanoproxy"), text)
        yield Place(stack.enter_context(proxy), one, two, seen)


def test_the_first_rule_that_matches_counts_in_the_order_of_the_file(place: Place) -> None:
    assert place.get("/api/deeper").text == "one /deeper"


def test_a_prefix_is_made_of_whole_elements(place: Place) -> None:
    assert place.get("/api").text == "one /"
    assert place.get("/api/").text == "one /"
    assert place.get("/api/x?q=1").text == "one /x?q=1"
    assert place.get("/apix").status == 404


def test_the_path_is_stripped_as_it_was_sent(place: Place) -> None:
    assert place.get("/api/a%2Fb%20c/%61").text == "one /a%2Fb%20c/%61"
    assert place.get("/api/api/api").text == "one /api/api"


def test_an_exact_path_is_the_whole_path(place: Place) -> None:
    assert place.get("/exact").text == "two /exact"
    assert place.get("/exact/").status == 404
    assert place.get("/exact/x").status == 404


@pytest.mark.parametrize("host", ["two.example", "TWO.example:8080", "two.example."])
def test_a_host_is_compared_without_case_port_and_the_dot_at_its_end(place: Place, host: str) -> None:
    assert place.get("/x", host).text == "two /x"


def test_no_rule_is_404_in_the_words_of_nanoproxy(place: Place) -> None:
    answer = place.get("/nowhere")
    assert (answer.status, answer.text) == (404, NO_RULE)


def test_the_health_route_answers_before_every_rule(place: Place) -> None:
    for host in ("any.example", "two.example"):
        answer = place.get("/.nanoproxy/health", host)
        assert (answer.status, answer.text) == (200, "OK")


def test_the_configuration_is_shown_only_with_debug(place: Place, tmp_path: Path) -> None:
    assert place.get("/.nanoproxy/config").status == 404
    text = written([upstream("one", place.one)], [{"upstream": "one", "path": "/"}])
    with NanoProxy(tmp_path, text, env={"DEBUG": "1"}) as proxy:
        shown = yaml.safe_load(request(proxy.proxy, "/.nanoproxy/config").text)
        assert shown["upstreams"][0]["name"] == "one"
        assert shown["rules"][0]["path"] == "/"


def test_the_host_is_kept_unless_the_upstream_says_otherwise(place: Place) -> None:
    for path, host in (("/seen", "any.example"), ("/renamed", f"127.0.0.1:{place.seen.port}")):
        fields = {key.lower(): value for key, value in place.get(path).json()["fields"]}
        assert fields["host"] == host
        assert fields["x-forwarded-for"] == "127.0.0.1"
        assert fields["x-forwarded-host"] == "any.example"
        assert fields["x-forwarded-proto"] == "http"


def test_an_answer_names_proxy_and_instance(place: Place) -> None:
    fields = place.get("/seen").headers
    assert fields["x-proxy"] == "tidegate"
    assert fields["x-proxy-instance"] == socket.gethostname()


def test_a_long_answer_and_a_long_upload_are_not_cut(tmp_path: Path) -> None:
    def slow(exchange: Exchange) -> None:
        size = sum(len(piece) for piece in exchange.chunks())
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            exchange.send(b"x")
            time.sleep(0.4)
        assert size == 8

    with Service(slow) as service:
        text = written([upstream("slow", service)], [{"upstream": "slow", "path": "/"}])
        with NanoProxy(tmp_path, text, env={"TIMEOUT": "1"}) as proxy, Raw(proxy.proxy) as downstream:
            downstream.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n")
            for _ in range(8):
                downstream.send(b"y")
                time.sleep(0.3)
            assert downstream.answer("POST").body == b"xxxxxxxx"


def test_an_upstream_that_says_nothing_is_504_after_the_timeout(tmp_path: Path) -> None:
    def silent(exchange: Exchange) -> None:
        exchange.receive()

    with Service(silent) as service:
        text = written([upstream("silent", service)], [{"upstream": "silent", "path": "/"}])
        with NanoProxy(tmp_path, text, env={"TIMEOUT": "1"}) as proxy:
            assert request(proxy.proxy).status == 504


def test_a_changed_file_is_in_force_however_it_was_saved(tmp_path: Path, place: Place) -> None:
    upstreams = [upstream("one", place.one), upstream("two", place.two)]
    one, two = (written(upstreams, [{"upstream": name, "path": "/"}]) for name in ("one", "two"))
    with NanoProxy(tmp_path, one) as proxy:
        assert request(proxy.proxy).text == "one /"
        save_by_rename(proxy.file, two)
        until(lambda: request(proxy.proxy).text == "two /", "a file saved by rename is in force")
        proxy.file.write_text(one)
        until(lambda: request(proxy.proxy).text == "one /", "a file written in place is in force")


@pytest.mark.parametrize(
    "text", ["", "\n# nothing\n", "rules: [", "upstreams: [{name: a}]\n", "rules: [{upstream: a, path: /, host: 'a b'}"]
)
def test_an_empty_or_broken_file_changes_nothing(tmp_path: Path, place: Place, text: str) -> None:
    good = written([upstream("one", place.one)], [{"upstream": "one", "path": "/"}])
    with NanoProxy(tmp_path, good) as proxy:
        save_by_rename(proxy.file, text)
        proxy.event("configuration refused")
        assert request(proxy.proxy).text == "one /"


@pytest.mark.parametrize("text", [None, ""], ids=["missing", "empty"])
def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path, place: Place, text: str | None) -> None:
    with NanoProxy(tmp_path, text) as proxy:
        assert request(proxy.proxy).status == 404
        assert request(proxy.proxy, "/.nanoproxy/health").status == 200
        proxy.file.write_text(written([upstream("one", place.one)], [{"upstream": "one", "path": "/"}]))
        until(lambda: request(proxy.proxy).status == 200, "the file is in force")


def test_a_file_in_base64_takes_the_place_of_the_file(tmp_path: Path, place: Place) -> None:
    text = written([upstream("two", place.two)], [{"upstream": "two", "path": "/"}])
    env = {"CONFIG_B64": base64.b64encode(text.encode()).decode()}
    with NanoProxy(tmp_path, "rules: []\n", env=env) as proxy:
        assert request(proxy.proxy).text == "two /"
        assert proxy.file.read_text() == text


def test_a_folder_with_a_certificate_turns_tls_on(tmp_path: Path, place: Place) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("cert", "DNS:localhost", "IP:127.0.0.1")
    key.rename(tmp_path / "key.pem")
    assert cert == tmp_path / "cert.pem"
    text = written([upstream("seen", place.seen)], [{"upstream": "seen", "path": "/"}])
    with NanoProxy(tmp_path, text, env={"CERT_PATH": str(tmp_path)}) as proxy:
        context = ssl.create_default_context(cafile=str(authority.ca))
        host, port = at(proxy.proxy)
        connection = HTTPSConnection(host, port, context=context, timeout=20)
        connection.request("GET", "/")
        fields: dict[str, Any] = dict(json.loads(connection.getresponse().read())["fields"])
        connection.close()
        assert {key.lower(): value for key, value in fields.items()}["x-forwarded-proto"] == "https"
        assert request(proxy.proxy).status == 400


def test_an_upstream_with_tls_is_verified_unless_told_otherwise(tmp_path: Path, place: Place) -> None:
    authority = Authority(tmp_path)
    with Relay(place.one.address, authority.server("IP:127.0.0.1")) as tls:
        text = written([upstream("tls", tls, scheme="https")], [{"upstream": "tls", "path": "/"}])
        with NanoProxy(tmp_path, text) as proxy:
            assert request(proxy.proxy).status == 502
        with NanoProxy(tmp_path, text, env={"SSL_CERT_FILE": str(authority.ca)}) as proxy:
            assert request(proxy.proxy).text == "one /"
        with NanoProxy(tmp_path, text, env={"TLS_SKIP_VERIFY": "1"}) as proxy:
            assert request(proxy.proxy).text == "one /"


def test_an_upstream_may_be_an_ipv6_address(tmp_path: Path) -> None:
    with Service(named("six"), host="::1") as service:
        text = written([{"name": "six", "host": "::1", "port": service.port}], [{"upstream": "six", "path": "/"}])
        with NanoProxy(tmp_path, text) as proxy:
            assert request(proxy.proxy, headers={"Host": "[::1]:80"}).text == "six /"
