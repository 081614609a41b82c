"""`tidegate config explain` of a file: what it says in words, and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.certificates import Authority
from tidegate.cli.config.explain import explain
from tidegate.control.question import question
from tidegate.errors import ConfigError

FILE = """
listeners:
  web: {bind: "127.0.0.1:8080"}
  other: {bind: "127.0.0.1:8081", dynamic_endpoints: {allow: [free]}}
  agents: {bind: "127.0.0.1:8001", kind: tunnel}
  db: {bind: "127.0.0.1:5432", kind: tcp, to: {endpoint: postgres}}
  secure: {bind: "127.0.0.1:8443", tls: {}}
upstreams:
  shop: {addresses: ["10.0.0.7:8080", {address: "https://[2001:db8::8]:8443", weight: 2}]}
routes:
  - {host: app.example.com, path: /api, strip: true, to: {endpoint: orders}}
  - {host: "*.example.com", to: {upstream: shop}}
  - {host: app.example.com, methods: [POST], headers: {x-beta: "1"}, to: {upstream: shop}}
  - {host: old.example.com, redirect: "https://new.example.com{path}{query}"}
  - {name: robots, path: /robots.txt, exact: true, listeners: [web], respond: 204}
  - {sni: vault.example.com, to: {addresses: ["10.0.0.9:8443"]}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The configuration."""
    path = tmp_path / "tidegate.yaml"
    path.write_text(FILE)
    return path


def ask(file: Path, *arguments: str) -> dict[str, Any]:
    """The answer as JSON."""
    result = CliRunner().invoke(explain, [*arguments, "--config", str(file), "-o", "json"], catch_exceptions=False)
    told: dict[str, Any] = json.loads(result.output)
    return told


def why(told: dict[str, Any]) -> dict[str, str]:
    """Why each other route was not taken."""
    return {each["name"]: each["why"] for each in told["others"]}


def test_the_route_taken_and_what_is_sent_on(file: Path) -> None:
    told = ask(file, "http://App.Example.com:8080/api/users?x=1")

    assert told["listener"] == {"name": "web", "addresses": ["127.0.0.1:8080"], "tls": False}
    assert told["route"]["name"] == "routes[0]"
    assert told["sends"] == {"method": "GET", "target": "/users?x=1", "host": "app.example.com:8080", "edited": False}
    assert told["endpoint"] == {"tenant": "", "name": "orders"}


def test_every_other_route_has_its_reason(file: Path) -> None:
    reasons = why(ask(file, "http://app.example.com/api", "--method", "post", "--header", "x-beta: 2"))

    assert reasons == {
        "routes[1]": "it matches too, but routes[0] has a more specific host",
        "routes[2]": "x-beta is not 1",
        "robots": "the path is not exactly /robots.txt",
        "routes[3]": "the host is not old.example.com",
        "routes[5]": "it passes TLS connections for vault.example.com through, and reads no request",
    }
    assert why(ask(file, "http://a.b/robots.txt", "--listener", "other"))["robots"] == "it counts on web only"


def test_addresses_of_an_upstream_with_their_weights(file: Path) -> None:
    told = ask(file, "http://app.example.com/", "--method", "POST", "--header", "X-Beta:1")

    assert told["route"]["name"] == "routes[2]"
    assert told["upstream"]["addresses"] == [
        {"address": "10.0.0.7:8080", "tls": False, "weight": 1},
        {"address": "[2001:db8::8]:8443", "tls": True, "weight": 2},
    ]


def test_answers_of_the_configuration_and_of_ours(file: Path) -> None:
    assert ask(file, "http://old.example.com/a?b")["answer"] == {
        "status": 308,
        "location": "https://new.example.com/a?b",
    }
    assert ask(file, "http://nobody.test/robots.txt")["answer"] == {"status": 204}
    assert ask(file, "http://nobody.test/")["answer"]["error"] == "no_route"
    assert ask(file, "http://app.example.com//api")["answer"]["error"] == "malformed_request"


def test_an_endpoint_that_a_request_names_by_itself(file: Path) -> None:
    told = ask(file, "http://free.test/", "--listener", "other")
    assert (told["route"], told["endpoint"]["name"]) == (None, "free")
    told = ask(file, "http://a.test/", "--listener", "other", "--header", "x-tidegate-endpoint: orders")
    assert told["answer"]["error"] == "no_upstream"


def test_tls_is_passed_through_or_refused_by_its_name(file: Path) -> None:
    told = ask(file, "https://vault.example.com")
    assert (told["tls"], told["route"]["name"]) == ("passed through undecrypted", "routes[5]")
    told = ask(file, "https://10.0.0.1", "--sni", "VAULT.example.com.")
    assert (told["sni"], told["route"]["name"]) == ("vault.example.com", "routes[5]")
    assert "unrecognized_name" in ask(file, "https://nobody.test")["tls"]


def test_a_request_that_does_not_belong_to_its_tls_connection(tmp_path: Path) -> None:
    authority, file = Authority(tmp_path), tmp_path / "tidegate.yaml"
    (cert, key), (other, its_key) = authority.issue("a.test"), authority.issue("c.test")
    file.write_text(f"""
listeners:
  secure:
    bind: "127.0.0.1:8443"
    dynamic_endpoints: false
    tls: {{certificates: [{{cert: {cert}, key: {key}}}, {{cert: {other}, key: {its_key}}}]}}
routes:
  - {{host: a.test, respond: 204}}
  - {{host: c.test, respond: 204}}
  - {{sni: vault.test, to: {{addresses: ["10.0.0.9:8443"]}}}}
""")

    told = ask(file, "https://vault.test/", "--sni", "a.test")
    assert (told["route"], told["answer"]["status"], told["answer"]["error"]) == (None, 421, "misdirected")
    assert "neither a route nor a certificate has this name" in ask(file, "https://nobody.test/")["tls"]
    asked = ["https://c.test/", "--sni", "a.test", "--config", str(file)]
    lines = CliRunner().invoke(explain, asked, catch_exceptions=False).output.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("answer")] == ["204"]
    assert any(line.startswith("by HTTP/2  421 misdirected (open another connection") for line in lines)


def test_a_tcp_listener_leads_to_one_place(file: Path) -> None:
    assert ask(file, "http://x", "--listener", "db")["endpoint"]["name"] == "postgres"


def test_a_port_of_the_url_says_which_listener_is_meant(file: Path) -> None:
    assert ask(file, "http://a.b:8081/")["listener"]["name"] == "other"
    assert ask(file, "http://a.b:5432/")["listener"]["name"] == "db"
    # What stands in front may listen on another port.
    assert ask(file, "http://a.b:9000/", "--listener", "other")["listener"]["name"] == "other"
    assert ask(file, "http://a.b/")["listener"]["name"] == "web"


def test_the_text_names_everything_that_counts(file: Path) -> None:
    result = CliRunner().invoke(explain, ["http://app.example.com/api/x", "--config", str(file)])

    words = result.output.split()
    for said in ("web", "routes[0]:", "app.example.com/api", "orders", "/x,", "WHY"):
        assert said in words
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ftp://a.b/"], "no URL"),
        (["http://a b/"], "no URL"),
        (["http://me@a.b/"], "no URL"),
        (["http://a.b:x/"], "no URL"),
        (["http://a.b/", "--header", "nothing"], "no header field"),
        (["http://a.b/", "--listener", "wbe"], 'no listener "wbe"'),
        (["http://a.b/", "--listener", "agents"], "is for agents"),
        (["http://a.b/", "--listener", "secure"], "speaks TLS"),
        (["https://a.b/", "--listener", "web"], "speaks no TLS"),
        (["http://a.b/", "--sni", "a.b"], "belongs to https"),
        (["http://a.b:8001/"], "is for agents"),
        (["http://a.b:8443/"], "speaks TLS"),
        (["https://a.b:8080/"], "speaks no TLS"),
        (["http://a.b:9000/"], r"no listener is on port 9000 \(there is web on 127.0.0.1:8080, other on "),
    ],
)
def test_what_cannot_be_asked_is_told(file: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CliRunner().invoke(explain, [*arguments, "--config", str(file)], catch_exceptions=False, standalone_mode=False)


def test_a_url_becomes_what_a_client_would_send() -> None:
    asked = question("b\u00fccher.test/a b/\u00fc?q=\u00e4#part")

    assert (asked["scheme"], asked["host"]) == ("http", "xn--bcher-kva.test")
    assert asked["target"] == "/a%20b/%C3%BC?q=%C3%A4"
    assert question("http://[0::1]:80//x/../%2e")["host"] == "[::1]:80"
    assert question("http://[::1]//x/../%2e")["target"] == "//x/../%2e"


def test_who_may_take_the_way_is_told(tmp_path: Path) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text("""
verifiers: {main: {secret: {env: A}}, other: {secret: {env: B}}, acme: {secret: {env: C}}}
tenants: {acme: {verifiers: [acme]}}
listeners:
  web:
    {bind: "127.0.0.1:8080", allow: [10.0.0.0/8], deny: [10.9.0.0/16], auth: {verifiers: [main, other]}, tenant: acme}
  plain: {bind: "127.0.0.1:8081"}
routes:
  - {host: open.example.com, to: {endpoint: x}, auth: none}
  - {host: shop.example.com, to: {endpoint: x}, auth: {users: {env: USERS}, verifiers: [main]}, deny: [192.0.2.1]}
  - {to: {endpoint: x}}
""")

    def said(host: str, listener: str) -> dict[str, str]:
        words = [f"http://{host}.example.com/", "--listener", listener, "--config", str(file)]
        shown = CliRunner().invoke(explain, words, catch_exceptions=False).output
        rows = dict(line.split(maxsplit=1) for line in shown.splitlines() if line)
        return {key: rows[key] for key in ("from", "with", "to") if key in rows}

    networks, owned = "10.0.0.0/8 but not 10.9.0.0/16", "endpoint x of tenant acme"
    assert said("open", "web") == {"from": networks, "to": owned}
    assert said("any", "web") == {"from": networks, "with": "a token (its listener asks)", "to": owned}
    assert said("shop", "plain") == {
        "from": "everywhere but not 192.0.2.1", "with": "a token or a password (its route asks)", "to": "endpoint x",
    }  # fmt: skip
    assert said("shop", "web")["from"] == f"{networks}; everywhere but not 192.0.2.1"
    assert said("any", "plain") == {"to": "endpoint x"}
