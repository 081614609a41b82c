"""What a new configuration changes, in short."""

from typing import Any

from tidegate.control.changes import changes, needs_restart
from tidegate.control.wording import difference


def route(position: int, host: str, to: Any, name: str = "") -> dict[str, Any]:
    action = {"forward": {"to": to}} if isinstance(to, dict) else {"respond": to}
    return {"name": name or f"routes[{position}]", "host": host, "path": None, "action": action}


def test_nothing_is_different() -> None:
    snapshot = {"routes": [route(0, "a", 204)], "limits": {"x": 1}}
    assert changes(snapshot, snapshot) == {}
    assert difference({}) == "nothing is different"


def test_listeners_and_upstreams_are_known_by_name() -> None:
    before = {
        "listeners": [{"name": "web", "bind": 1}, {"name": "old"}],
        "upstreams": [{"name": "shop", "addresses": 1}],
    }
    after = {
        "listeners": [{"name": "web", "bind": 2}, {"name": "new"}],
        "upstreams": [{"name": "shop", "addresses": 2}],
    }
    assert difference(changes(before, after)) == (
        "listeners: 1 added (new), 1 removed (old), 1 changed (web); upstreams: 1 changed (shop)"
    )


def test_a_route_that_only_moved_has_not_changed() -> None:
    before = {"routes": [route(0, "a", 204), route(1, "b", 204)]}
    after = {"routes": [route(0, "new", 204), route(1, "a", 204), route(2, "b", 204)]}
    assert changes(before, after) == {"routes": {"added": {"count": 1, "names": ["new"]}}}


def test_a_route_has_changed_when_its_own_addresses_have() -> None:
    def snapshot(position: int, address: str) -> dict[str, Any]:
        name = f"routes[{position}]"
        more = [route(0, "x", 204)] * position
        return {
            "routes": [*more, route(position, "a", {"upstream": name})],
            "upstreams": [{"name": name, "addresses": [address]}],
        }

    assert changes(snapshot(0, "1"), snapshot(0, "2")) == {"routes": {"changed": {"count": 1, "names": ["a"]}}}
    assert changes(snapshot(0, "1"), snapshot(1, "1")) == {"routes": {"added": {"count": 1, "names": ["x"]}}}


def test_a_route_that_asks_for_another_credential_has_changed() -> None:
    before = {"routes": [{**route(0, "a", 204), "auth": "inherit", "allow": []}], "verifier_sets": []}
    after = {"routes": [{**route(0, "a", 204), "auth": None, "allow": []}], "verifier_sets": [{"id": "main/1"}]}
    assert difference(changes(before, after)) == "routes: 1 changed (a); settings: 1 changed (verifiers)"


def test_of_many_the_first_are_named_and_all_are_counted() -> None:
    after = {"routes": [route(n, f"h{n}", 204) for n in range(1000)]}
    found = changes({"routes": []}, after)["routes"]["added"]
    assert (found["count"], len(found["names"])) == (1000, 10)
    assert difference(changes({}, after)).endswith("h9, ...)")


def test_settings_are_named() -> None:
    assert difference(changes({"limits": 1}, {"limits": 2})) == "settings: 1 changed (limits)"


def test_the_number_of_workers_takes_a_restart() -> None:
    assert needs_restart({"workers": 2}, {"workers": 2}) == []
    [sentence] = needs_restart({"workers": 2}, {"workers": 4})
    assert sentence.startswith("workers: 2 are running")
