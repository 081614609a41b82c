"""UDP services behind agents: a flow over QUIC for every source that speaks to a listener of kind udp."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from tests.support.access import line
from tests.support.certificates import Authority
from tests.support.datagrams import Echo, Names, Source
from tests.support.http import request
from tests.support.namespace import Namespace
from tests.support.process import until
from tests.support.tidegate import Agent, Gateway, Tidegate
from tests.support.tools import need
from tests.system.over_quic import Quic


@pytest.fixture(scope="module")
def quic(authority: Authority) -> Quic:
    """Both ends trust it."""
    return Quic(authority)


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A service that says what it was told."""
    with Echo() as echo:
        yield echo


def config(quic: Quic, endpoint: str = "echo", workers: int = 2, **more: Any) -> dict[str, Any]:
    """A gateway with a listener `in` for datagrams to the endpoint."""
    listener = {"bind": "127.0.0.1:0", "kind": "udp", "to": {"endpoint": endpoint}, **more}
    return {"listeners": {"agents": quic.listener(), "in": listener}, "workers": workers}


def agent(quic: Quic, gateway: Gateway, echo: Echo, *options: str, **more: Any) -> Agent:
    """An agent that offers it; by itself it takes QUIC, since nothing else carries datagrams."""
    return quic.agent(gateway.agents, "udp", "echo", echo.address, *options, transport="auto", **more)


def sessions(gateway: Gateway) -> int:
    """Sources that the gateway knows."""
    found = {listener["name"]: listener for listener in gateway.status()["listeners"]}
    return int(found["in"]["udp_sessions"])


def metric(gateway: Gateway, series: str) -> float:
    """One number of a gateway's metrics."""
    for each in request(gateway.admin, "/metrics").text.splitlines():
        name, _, value = each.rpartition(" ")
        if name == series:
            return float(value)
    raise AssertionError(f"there is no {series}")


def datagrams(gateway: Gateway, direction: str, outcome: str) -> float:
    """How many have come to that."""
    return metric(gateway, f'tidegate_udp_datagrams_total{{direction="{direction}",outcome="{outcome}"}}')


def test_datagrams_go_both_ways_and_every_source_has_its_own_flow(quic: Quic, echo: Echo) -> None:
    with Gateway(config(quic)) as gateway, agent(quic, gateway, echo) as offered, ExitStack() as stack:
        sources = [stack.enter_context(Source(gateway.address("in"))) for _ in range(20)]
        for number, source in enumerate(sources):
            assert source.ask(b"%d" % number) == b"%d" % number
        for source in sources:
            source.send(b"")
            assert source.receive() == b""
        assert sessions(gateway) == 20
        assert len(set(echo.sources)) == 20
        assert metric(gateway, 'tidegate_udp_sessions{listener="in"}') == 20
        assert datagrams(gateway, "in", "sent") >= 40
        assert datagrams(gateway, "out", "sent") >= 40
        assert offered.event("connected")["transport"] == "quic"
        told = request(gateway.admin, "/status").json()["endpoints"][0]["listeners"][0]
        assert told["datagrams_dropped"] == 0
        assert told["streams"] == 20


def test_a_name_is_looked_up_through_an_endpoint(quic: Quic) -> None:
    dig = need("dig")
    with (
        Names({"db.corp.example": "10.1.2.3"}) as names,
        Gateway(config(quic, "dns")) as gateway,
        quic.agent(gateway.agents, "udp", "dns", f"udp://{names.address}", transport="auto"),
    ):
        host, _, port = gateway.address("in").rpartition(":")
        words = [dig, f"@{host}", "-p", port, "+tries=5", "+timeout=2", "db.corp.example", "A", "+short"]
        assert subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout == "10.1.2.3\n"
        words[-3] = "nothing.example"
        words[-1] = "+comments"
        assert "NXDOMAIN" in subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout


def test_a_source_without_a_datagram_for_a_while_is_forgotten_at_both_ends(quic: Quic, echo: Echo) -> None:
    with (
        Gateway(config(quic, idle="1s")) as gateway,
        agent(quic, gateway, echo, "--idle", "1s"),
        Source(gateway.address("in")) as source,
    ):
        source.ask(b"a")
        for _ in range(6):
            time.sleep(0.3)  # shorter than `idle`: it lives on
            assert source.ask(b"b") == b"b"
        assert len(set(echo.sources)) == 1
        until(lambda: sessions(gateway) == 0, "it is forgotten")
        logged = line(gateway, listener="in")
        assert (logged["endpoint"], logged["error"]) == ("echo", None)
        assert logged["bytes_in"] >= 7
        until(lambda: gateway.status()["endpoints"][0]["listeners"][0]["streams"] == 0, "the flow has ended")
        # It comes back as somebody new.
        assert source.ask(b"c") == b"c"
        assert len(set(echo.sources)) == 2


def test_the_agent_ends_an_idle_flow_although_the_gateway_would_wait(quic: Quic, echo: Echo) -> None:
    with (
        Gateway(config(quic, idle="1h")) as gateway,
        agent(quic, gateway, echo, "--idle", "500ms"),
        Source(gateway.address("in")) as source,
    ):
        source.ask(b"a")
        until(lambda: sessions(gateway) == 0, "it is forgotten")
        assert source.ask(b"b") == b"b"


def test_sizes_are_honest(quic: Quic, echo: Echo) -> None:
    with Gateway(config(quic)) as gateway, agent(quic, gateway, echo), Source(gateway.address("in")) as source:
        source.ask(b"a")
        assert len(source.ask(b"x" * 1100)) == 1100
        source.send(b"y" * 9000)
        told = gateway.event("datagram too big")
        assert told["size"] == 9000
        assert 1100 < told["most"] < 6500
        assert told["listener"] == "in"
        # The way back may carry a little less.
        largest = int(told["most"]) - 16
        assert len(source.ask(b"z" * largest)) == largest
        until(lambda: datagrams(gateway, "in", "too_big") == 1, "it is counted")
        # Said once, counted each time.
        source.send(b"y" * 65000)
        until(lambda: datagrams(gateway, "in", "too_big") == 2, "it is counted")
        assert len(gateway.seen("datagram too big")) == 1
        assert all(len(got) < 6500 for got in echo.got)


def test_what_is_too_large_for_the_way_back_is_told_by_the_agent(quic: Quic) -> None:
    with (
        Echo(b"w" * 9000) as echo,
        Gateway(config(quic)) as gateway,
        agent(quic, gateway, echo) as offered,
        Source(gateway.address("in")) as source,
    ):
        source.send(b"a")
        told = offered.event("datagram too big")
        assert (told["size"], told["endpoint"], told["direction"]) == (9001, "echo", "out")
        assert source.receive(0.3) is None


@pytest.mark.parametrize(("largest", "least", "most"), [(1280, 1100, 1232), (1500, 1350, 1472)])
def test_the_path_decides_how_large_one_may_be(quic: Quic, largest: int, least: int, most: int) -> None:
    with Namespace() as network, network.inside():
        network.largest_packet(largest)
        with (
            Echo() as echo,
            Gateway(config(quic)) as gateway,
            agent(quic, gateway, echo),
            Source(gateway.address("in")) as source,
        ):
            source.ask(b"a")

            def told() -> int:
                # The path is explored for a while: each flow is told once, so it takes a new one each time.
                before = len(gateway.seen("datagram too big"))
                with Source(gateway.address("in")) as other:
                    other.send(b"y" * 1460)
                    return int(gateway.event("datagram too big", nth=before + 1)["most"])

            found = until(lambda: (size := told()) >= least and size, "the path is known")
            assert found <= most
            assert len(source.ask(b"z" * (found - 16))) == found - 16


def answered(source: Source, payload: bytes) -> bool:
    """Whether the next answer is that to this."""
    return source.ask(payload) == payload


def test_thousands_of_spoofed_sources_harm_nobody(quic: Quic, echo: Echo) -> None:
    with Gateway(config(quic, sessions=200)) as gateway, agent(quic, gateway, echo):
        address = gateway.address("in")
        with Source(address) as known:
            known.ask(b"me")
            mine = echo.sources[0]
            before = _memory(gateway.pid)
            port = int(address.rpartition(":")[2])
            for number in range(5000):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as spoofed:
                    spoofed.bind((f"127.1.{number // 250}.{1 + number % 250}", 0))
                    spoofed.sendto(b"x" * 64, ("127.0.0.1", port))
                if number % 50 == 0:
                    # What answers an earlier one may come late.
                    until(partial(answered, known, b"still me %d" % number), "it is answered")
            assert sessions(gateway) <= 200
            until(lambda: metric(gateway, 'tidegate_udp_evicted_total{listener="in"}') > 2500, "they gave way")
            # The one that was used all the time was never forgotten.
            said = [source for got, source in zip(echo.got, echo.sources, strict=False) if got.startswith(b"still me")]
            assert set(said) == {mine}
            assert _memory(gateway.pid) - before < 64 << 20
            until(lambda: gateway.status()["endpoints"][0]["listeners"][0]["streams"] <= 200, "nothing is left of them")


def test_nobody_who_may_not_come_is_answered(quic: Quic, echo: Echo) -> None:
    listener = config(quic, deny=["127.0.0.2/32"])
    with (
        Gateway(listener) as gateway,
        agent(quic, gateway, echo),
        Source(gateway.address("in"), bind="127.0.0.2") as denied,
        Source(gateway.address("in")) as other,
    ):
        denied.send(b"x")
        assert other.ask(b"y") == b"y"
        until(lambda: datagrams(gateway, "in", "denied") == 1, "it is counted")
        assert echo.got == [b"y"] * len(echo.got)
        assert sessions(gateway) == 1


def test_a_source_stays_with_its_agent_and_finds_another_when_that_one_leaves(quic: Quic) -> None:
    with Echo(b"1") as one, Echo(b"2") as two, Gateway(config(quic)) as gateway, ExitStack() as stack:
        agents = {b"1": stack.enter_context(agent(quic, gateway, one))}
        agents[b"2"] = stack.enter_context(agent(quic, gateway, two))
        gateway.until_offered("echo", 2)
        sources = [stack.enter_context(Source(gateway.address("in"))) for _ in range(6)]
        homes = [source.ask(b"x")[:1] for source in sources]
        assert set(homes) == {b"1", b"2"}
        for source, home in zip(sources, homes, strict=True):
            assert {source.ask(b"y")[:1] for _ in range(5)} == {home}
        agents[b"1"].stop()
        for source in sources:
            assert source.ask(b"z") in (b"1z", b"2z")
        until(lambda: all(source.ask(b"w") == b"2w" for source in sources), "all have come to the other one")


def test_a_killed_agent_is_replaced_by_the_next_one(quic: Quic, echo: Echo) -> None:
    with (
        Gateway({**config(quic), "tunnel": {"ping_interval": "1s", "ping_timeout": "1s"}}) as gateway,
        Source(gateway.address("in")) as source,
    ):
        with agent(quic, gateway, echo) as first:
            source.ask(b"a")
            first.kill()
        with agent(quic, gateway, echo):
            assert source.ask(b"b") == b"b"


def test_without_an_agent_datagrams_are_counted_and_tried_again_later(quic: Quic, echo: Echo) -> None:
    with Gateway(config(quic)) as gateway, Source(gateway.address("in")) as source:
        for _ in range(20):
            source.send(b"x")
        logged = line(gateway, listener="in")
        assert logged["error"] == "no_upstream"
        # Of many at once some do not even wait.
        dropped = ("no_session", "queue_full")
        until(lambda: sum(datagrams(gateway, "in", why) for why in dropped) == 20, "they are counted")
        with agent(quic, gateway, echo):
            assert source.ask(b"y") == b"y"


def test_streams_and_datagrams_of_one_name_do_not_meet(quic: Quic, echo: Echo) -> None:
    with Gateway(config(quic)) as gateway, agent(quic, gateway, echo), Source(gateway.address("in")) as source:
        answer = request(gateway.proxy, endpoint="echo")
        assert answer.status == 502
        assert source.ask(b"x") == b"x"
        with quic.agent(gateway.agents, "tcp", "lines", "127.0.0.1:9", transport="quic"):
            gateway.write({**config(quic), "listeners": {**config(quic, "lines")["listeners"]}})
            assert gateway.reload().status == 200
            source.send(b"y")
            logged = until(lambda: gateway.log.find('"no_upstream"') >= 0, "nobody takes it")
            assert logged


def test_a_reload_keeps_those_that_lead_to_the_same_place(quic: Quic, echo: Echo) -> None:
    first = config(quic)
    with Gateway(first) as gateway, agent(quic, gateway, echo), Source(gateway.address("in")) as source:
        source.ask(b"a")
        address = gateway.address("in")
        changed = config(quic, idle="5s", sessions=8)
        gateway.write(changed)
        assert gateway.reload().status == 200
        assert source.ask(b"b") == b"b"
        assert len(set(echo.sources)) == 1
        del changed["listeners"]["in"]
        gateway.write(changed)
        assert gateway.reload().status == 200
        until(lambda: gateway.seen("listener closed"), "it is gone")
        until(lambda: gateway.status()["endpoints"][0]["listeners"][0]["streams"] == 0, "its flows have ended")
        host, _, port = address.rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind((host, int(port)))


@pytest.mark.parametrize(("host", "bind", "by"), [("::1", "[::1]:0", "[::1]"), ("127.0.0.1", "[::]:0", "127.0.0.1")])
def test_ipv6_and_names_with_two_addresses(quic: Quic, host: str, bind: str, by: str) -> None:
    # `localhost` is ::1 first, where one of the two does not listen.
    with (
        Echo(host=host) as echo,
        Gateway(config(quic, bind=bind)) as gateway,
        quic.agent(gateway.agents, "udp", "echo", f"udp://localhost:{echo.port}", transport="auto"),
    ):
        port = gateway.address("in").rpartition(":")[2]
        with Source(f"{by}:{port}") as source:
            source.send(b"hello")
            assert source.receive() == b"hello"
            gateway.stop()
            assert str(line(gateway, listener="in")["client"]).startswith(f"{by}:")


def test_a_gateway_that_leaves_waits_for_no_source(quic: Quic, echo: Echo) -> None:
    with Gateway(config(quic)) as gateway, agent(quic, gateway, echo), Source(gateway.address("in")) as source:
        source.ask(b"a")
        begun = time.monotonic()
        gateway.stop()
        assert time.monotonic() - begun < 8
        assert gateway.event("stopped")["clean"] is True


def _memory(pid: int) -> int:
    """Bytes that a process holds."""
    with open(f"/proc/{pid}/statm") as text:
        return int(text.read().split()[1]) * 4096


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--connect", "https://g:1", "--transport", "websocket"), "write transport: auto or quic"),
        (("--connect", "http://g:1"), "no URL begins with https://"),
        (("--connect", "https://g:1", "--proxy-url", "http://p:3128"), "leave out `proxy`: it goes through none"),
    ],
)
def test_without_quic_the_refusal_says_so(options: tuple[str, ...], sentence: str) -> None:
    with Tidegate("agent", "udp", "dns", "10.0.0.53:53", *options) as refused:
        assert refused.wait() != 0
        assert f'endpoint "dns" is UDP, which needs QUIC ({sentence})' in refused.log


def reached(quic: Quic, **more: Any) -> dict[str, Any]:
    """The same with a listener where forwards come in, who may name the endpoint."""
    there = config(quic)
    by_name = {"dynamic_endpoints": {"allow": ["echo", "nothing"]}}
    there["listeners"]["proxy"] = {"bind": "127.0.0.1:0", **by_name, **more}
    return there


def test_a_forward_reaches_what_an_agent_offers(quic: Quic, echo: Echo) -> None:
    with Gateway(reached(quic, tls=quic.tls, transports=["websocket", "quic"])) as gateway, agent(quic, gateway, echo):
        options = ("--connect", f"https://{gateway.proxy}", "--connect-ca", str(quic.authority.ca))
        with Tidegate("forward", "udp", "127.0.0.1:0", "echo", *options) as forward:
            address = str(forward.ready("listening")["address"])
            with Source(address) as one, Source(address) as other:
                assert one.ask(b"one") == b"one"
                assert other.ask(b"other") == b"other"
                assert len(set(echo.sources)) == 2
            forward.stop()
            assert line(gateway, listener="proxy", endpoint="echo", bytes_in=3)["status"] == 101
        with Tidegate("forward", "udp", "127.0.0.1:0", "nothing", *options) as forward:
            address = str(forward.ready("listening")["address"])
            with Source(address) as source:
                source.send(b"x")
                forward.event("stream refused", endpoint="nothing")


def test_the_path_of_datagrams_is_none_for_requests(quic: Quic, echo: Echo) -> None:
    with Gateway(reached(quic)) as gateway, agent(quic, gateway, echo):
        answer = request(gateway.proxy, "/_piko/v1/udp/echo")
        assert answer.status == 400
        assert "datagrams" in answer.text
