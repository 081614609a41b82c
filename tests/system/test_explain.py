"""`tidegate config explain --url`: what a running gateway says of a request, beside what it does with it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.ports import reserved
from tests.support.service import Service, echo
from tests.support.tidegate import Agent, Gateway, command
from tests.support.tools import curl


def explained(gateway: Gateway, url: str, *options: str) -> dict[str, Any]:
    """The answer to `tidegate config explain`."""
    asked = command("config", "explain", url, "--url", f"http://{gateway.admin}", "-o", "json", *options)
    told: dict[str, Any] = json.loads(subprocess.run(asked, check=True, capture_output=True).stdout)
    return told


def test_a_running_gateway_tells_who_offers_what_and_the_answer_of_now() -> None:
    with Service(echo) as service, reserved() as silent:
        routes = [
            {"host": "web.test", "to": {"endpoint": "web"}},
            {
                "host": "shop.test",
                "to": {"addresses": [service.address, silent], "ejection": {"failures": 1, "time": 60}},
            },
        ]
        with Gateway({"routes": routes, "workers": 1}) as gateway:
            told = explained(gateway, "http://web.test/x")
            assert told["listener"]["addresses"] == [gateway.proxy]
            assert (told["answer"]["status"], told["answer"]["error"]) == (502, "no_upstream")
            assert request(gateway.proxy, headers={"Host": "web.test"}).status == 502

            with Agent(gateway.agents, "http", "web", service.address):
                gateway.until_offered("web")
                told = explained(gateway, "http://web.test/x")
                assert "answer" not in told
                (listener,) = told["endpoint"]["listeners"]
                assert listener["since"] > 1_700_000_000
                assert request(gateway.proxy, headers={"Host": "web.test"}).status == 200

            for _ in range(4):
                assert request(gateway.proxy, headers={"Host": "shop.test"}).status == 200
            addresses = {
                each["address"]: each for each in explained(gateway, "http://shop.test")["upstream"]["addresses"]
            }
            assert addresses[service.address]["state"] != addresses[silent]["state"]
            assert all(each["since"] > 1_700_000_000 for each in addresses.values())
            assert silent.rpartition(":")[2] in json.dumps(addresses[silent])


def test_what_cannot_be_asked_is_told_by_the_gateway() -> None:
    with Gateway({"routes": [{"respond": 204}]}) as gateway:
        asked = command("config", "explain", "http://a.b/", "--url", f"http://{gateway.admin}", "--listener", "nowhere")
        run = subprocess.run(asked, check=False, capture_output=True, text=True)
        assert (run.returncode, 'no listener "nowhere"' in run.stderr) == (1, True)
        with reserved() as nobody:
            asked = command("config", "explain", f"http://{nobody}/", "--url", f"http://{gateway.admin}")
            run = subprocess.run(asked, check=False, capture_output=True, text=True)
        assert (run.returncode, f"on {gateway.proxy}" in run.stderr) == (1, True), run.stderr
        assert request(gateway.admin, "/status/explain").status == 400
        told = request(gateway.admin, "/status/explain?url=http://a.b/&header=x-a:%201&method=PUT").json()
        assert told["answer"] == {"status": 204}


def test_tls_is_told_as_the_gateway_decides_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = [authority.issue("ab", "DNS:a.test", "DNS:b.test"), authority.issue("c.test")]
    certificates = [{"cert": str(cert), "key": str(key)} for cert, key in issued]
    secure = {"bind": "127.0.0.1:0", "dynamic_endpoints": False, "tls": {"certificates": certificates}}
    routes = [
        *({"host": f"{name}.test", "respond": 204} for name in "abc"),
        {"host": "bare.test", "respond": 204},
        {"sni": "vault.test", "to": {"addresses": ["127.0.0.1:1"]}},
    ]

    def told(gateway: Gateway, name: str, host: str) -> list[int]:
        said = explained(gateway, f"https://{host}/", "--sni", name, "--listener", "secure")
        if "unrecognized_name" in said["tls"]:
            return [0, 0]
        return [
            said[key]["status"] if key in said else said["answer"]["status"] for key in ("answer", "answer_over_http2")
        ]

    def done(gateway: Gateway, name: str, host: str) -> list[int]:
        to = ("--insecure", "--connect-to", f"::{gateway.address('secure')}", "--header", f"Host: {host}")
        return [curl(version, *to, f"https://{name}/").status for version in ("--http1.1", "--http2")]

    with Gateway({"listeners": {"secure": secure}, "routes": routes}) as gateway:
        for name, host, expected in (
            ("a.test", "a.test", [204, 204]),
            ("a.test", "b.test", [204, 204]),
            ("a.test", "c.test", [204, 421]),
            ("a.test", "bare.test", [204, 204]),
            ("a.test", "nobody.test", [404, 421]),
            ("a.test", "vault.test", [421, 421]),
            ("bare.test", "bare.test", [204, 204]),
            ("nobody.test", "nobody.test", [0, 0]),
        ):
            assert done(gateway, name, host) == expected, (name, host)
            assert told(gateway, name, host) == expected, (name, host)
