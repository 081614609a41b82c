"""What a role's status means: ready or not, what is wrong, whether it can ever work."""

from typing import Any

import pytest

from tests.unit.control.doubles import FakeRole
from tidegate.control.state import State


def agent(*states: str, reason: str | None = None) -> dict[str, Any]:
    tunnels = [{"slot": slot, "state": state, "reason": reason} for slot, state in enumerate(states)]
    return {"state": "running", "endpoints": [{"name": "web", "tunnels": tunnels}]}


def test_a_gateway_is_ready_without_agents() -> None:
    bound = {"state": "running", "listeners": [{"name": "proxy", "addresses": ["127.0.0.1:8000"]}], "endpoints": []}
    assert State(FakeRole(bound), "gateway").not_ready() is None


def test_a_gateway_with_an_unbound_listener_is_not_ready() -> None:
    unbound = {"state": "running", "listeners": [{"name": "proxy", "addresses": []}]}
    assert State(FakeRole(unbound), "gateway").not_ready() == "listener proxy is not bound"


def test_a_role_that_drains_is_not_ready() -> None:
    assert State(FakeRole({"state": "draining"}), "gateway").not_ready() == "draining"
    state = State(FakeRole(), "forward")
    assert state.not_ready() is None
    state.draining = True
    assert state.not_ready() == "draining"


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        (["connected", "waiting"], None),
        (["connecting", "waiting"], "no tunnel for web"),
        ([], "no tunnel for web"),
    ],
)
def test_an_agent_is_ready_when_every_endpoint_has_a_tunnel(states: list[str], reason: str | None) -> None:
    assert State(FakeRole(agent(*states)), "agent").not_ready() == reason


def test_an_endpoint_without_tunnel_is_a_problem_with_its_reason() -> None:
    status = State(FakeRole(agent("waiting", "waiting", reason="connection refused")), "agent").status()
    assert status["problems"] == ["endpoint web has no tunnel: connection refused"]


def test_what_the_engine_finds_wrong_is_kept() -> None:
    assert State(FakeRole({"problems": ["workers are late"]}), "gateway").status()["problems"] == ["workers are late"]


def test_a_gateway_that_drains_says_so_after_what_the_engine_finds_wrong() -> None:
    draining = State(FakeRole({"state": "draining", "problems": ["workers are late"]}), "gateway").status()["problems"]
    assert draining[0] == "workers are late"
    assert [problem.partition(":")[0] for problem in draining[1:]] == ["draining"]
    asked = State(FakeRole(), "gateway")
    assert asked.status()["problems"] == []
    asked.draining = True
    assert asked.status()["problems"] == draining[1:]


def test_nothing_is_wrong_with_a_forward() -> None:
    assert State(FakeRole({"state": "running", "forwards": []}), "forward").status()["problems"] == []


def test_an_agent_is_refused_for_good_when_every_tunnel_is() -> None:
    assert State(FakeRole(agent("refused", "refused", reason="401 invalid token")), "agent").refused_for_good() == (
        "401 invalid token"
    )
    assert State(FakeRole(agent("refused", "waiting")), "agent").refused_for_good() is None
    assert State(FakeRole(agent()), "agent").refused_for_good() is None
    assert State(FakeRole(), "gateway").refused_for_good() is None
