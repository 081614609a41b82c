"""
Mistakes between parts of a gateway's configuration: names that nothing has, routes that are equal.

Parts that are wrong in themselves are told by the models; here they stand as `None`, so that everything else is
still checked and all mistakes are told at once. Every check takes time in proportion to what is written.
"""

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tidegate.config.listeners import Listener
from tidegate.config.names import address, normal_path
from tidegate.config.routes import Route
from tidegate.config.upstreams import Addresses, To, Upstream

__all__ = ["Mistake", "Path", "Traffic", "hint", "listener_upstream", "mistakes", "route_name"]

Path = tuple[str | int, ...]
Mistake = tuple[Path, str]

_MOST_HINTS = 20


@dataclass(frozen=True)
class Traffic:
    """What is to be checked together; `None` stands for what is wrong in itself."""

    listeners: Mapping[str, Listener | None]
    """By name."""
    upstreams: Mapping[str, Upstream | None]
    """By name."""
    routes: Mapping[int, Route | None]
    """By position."""
    specific: bool
    """The most specific route counts, so that of two equal ones the second is never reached."""
    where: Callable[[Path], str]
    """The place of something, in words."""
    hinted: list[str] = field(default_factory=list)
    """Names that were compared with all others; that is slow, and enough is enough."""

    @cached_property
    def http(self) -> list[str]:
        """Listeners that routes without `listeners` count on; one that is wrong in itself may be one."""
        return [name for name, each in self.listeners.items() if each is None or each.kind == "http"]

    @cached_property
    def tls(self) -> list[str]:
        """Those that can pass TLS through."""
        return [name for name in self.http if (each := self.listeners[name]) is None or each.tls is not None]

    def on(self, route: Route) -> Iterable[str]:
        """The listeners that a route counts on."""
        return route.listeners or (self.tls if route.sni is not None else self.http)


def route_name(position: int, route: Route) -> str:
    """What logs and metrics call a route, and the upstream made of its own addresses."""
    return route.name if route.name is not None else f"routes[{position}]"


def listener_upstream(name: str) -> str:
    """The name of the upstream made of a TCP listener's own addresses."""
    return f"listeners.{name}"


def mistakes(traffic: Traffic) -> Iterator[Mistake]:
    """Every mistake with its place."""
    for name, listener in traffic.listeners.items():
        if listener is not None and listener.to is not None:
            yield from _leads(traffic, ("listeners", name, "to"), listener.to)
    for position, route in traffic.routes.items():
        if route is not None:
            yield from _route(traffic, position, route)
    yield from _names(traffic)
    if traffic.specific:
        yield from _equal_routes(traffic)
    yield from _passed_and_decrypted(traffic)


def _leads(traffic: Traffic, path: Path, to: To) -> Iterator[Mistake]:
    if to.upstream is not None and to.upstream not in traffic.upstreams:
        near = hint(traffic, to.upstream, traffic.upstreams, "there are none; add them below `upstreams`")
        yield (*path, "upstream"), f"there is no upstream `{to.upstream}` ({near})"


def hint(traffic: Traffic, name: str, known: Iterable[str], none: str) -> str:
    """What to say of a name that nothing has: the nearest one, or those that there are."""
    names = list(known)
    if not names:
        return none
    traffic.hinted.append(name)
    if len(traffic.hinted) <= _MOST_HINTS:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        if near:
            return f"did you mean `{near[0]}`?"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"known: {', '.join(names[:10])}{more}"


def _route(traffic: Traffic, position: int, route: Route) -> Iterator[Mistake]:
    here: Path = ("routes", position)
    if route.to is not None:
        yield from _leads(traffic, (*here, "to"), route.to)
    for number, name in enumerate(route.listeners):
        problem = _listener_problem(traffic, name, route)
        if problem:
            yield (*here, "listeners", number), problem
    if route.sni is None:
        return
    if not route.listeners and not traffic.tls:
        yield (*here, "sni"), "no listener speaks TLS (add `tls: {}` to one to pass connections through)"
    if route.to is not None and _speaks_tls(traffic, route.to):
        yield (
            (*here, "to"),
            "leads to an https:// or h2:// address, but what is passed through is encrypted already (write HOST:PORT)",
        )


def _listener_problem(traffic: Traffic, name: str, route: Route) -> str | None:
    if name not in traffic.listeners:
        return f"there is no listener `{name}` ({hint(traffic, name, traffic.listeners, 'there are none')})"
    listener = traffic.listeners[name]
    if listener is None:
        return None
    if listener.kind != "http":
        return f"listener `{name}` is of kind {listener.kind}; routes count on listeners of kind http"
    if route.sni is not None and listener.tls is None:
        return f"listener `{name}` does not speak TLS (add `tls: {{}}` to it to pass connections through)"
    if route.sni is None and listener.tls is not None and not listener.tls.certificates:
        return f"listener `{name}` has no certificates, so it passes everything through and reads no request"
    return None


def _speaks_tls(traffic: Traffic, to: To) -> bool:
    group: Addresses | None = traffic.upstreams.get(to.upstream) if to.upstream is not None else to
    return group is not None and any(address(each.address).tls for each in group.addresses)


def _names(traffic: Traffic) -> Iterator[Mistake]:
    """Routes' names differ, and so do those of upstreams, written or made of addresses."""
    routes: dict[str, int] = {}
    made: dict[str, Path] = {name: ("upstreams", name) for name in traffic.upstreams}
    for name, listener in traffic.listeners.items():
        if listener is not None and listener.to is not None and listener.to.addresses:
            other = made.setdefault(listener_upstream(name), ("listeners", name))
            if other != ("listeners", name):
                yield ("listeners", name), _taken(traffic, listener_upstream(name), other)
    for position, route in traffic.routes.items():
        if route is None or route.name is None:
            continue
        first = routes.setdefault(route.name, position)
        if first != position:
            yield (
                ("routes", position, "name"),
                f"`{route.name}` is the name of {_told(traffic, ('routes', first))} already",
            )
        elif route.to is not None and route.to.addresses and route.name in made:
            yield ("routes", position, "name"), _taken(traffic, route.name, made[route.name])


def _taken(traffic: Traffic, name: str, other: Path) -> str:
    return f"its addresses would be the upstream `{name}`, which {_told(traffic, other)} is already"


def _told(traffic: Traffic, path: Path) -> str:
    name = f"{path[0]}[{path[1]}]" if isinstance(path[1], int) else ".".join(map(str, path))
    return f"{name} ({traffic.where(path)})"


def _equal_routes(traffic: Traffic) -> Iterator[Mistake]:
    groups: defaultdict[object, list[int]] = defaultdict(list)
    for position, route in traffic.routes.items():
        if route is not None:
            groups[_match(route)].append(position)
    for positions in groups.values():
        if len(positions) > 1:
            yield from _shared(traffic, positions)


def _match(route: Route) -> object:
    # As the engine reads it: a prefix may end with `/`, and `/` is every path.
    path = normal_path(route.path or "")
    path = path if route.exact else path.removesuffix("/")
    return route.sni, route.host, path, route.exact, frozenset(route.methods), frozenset(route.headers.items())


def _shared(traffic: Traffic, positions: list[int]) -> Iterator[Mistake]:
    taken: dict[str, int] = {}
    for position in positions:
        route = traffic.routes[position]
        assert route is not None  # noqa: S101  only routes that are right were grouped
        first: int | None = None
        for listener in traffic.on(route):
            other = taken.setdefault(listener, position)
            first = other if first is None and other != position else first
        if first is not None:
            yield ("routes", position), f"matches exactly what {_told(traffic, ('routes', first))} matches; remove one"


def _passed_and_decrypted(traffic: Traffic) -> Iterator[Mistake]:
    """A name cannot be passed through and read on one listener."""
    passed: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for position, route in traffic.routes.items():
        if route is not None and route.sni is not None:
            for listener in traffic.on(route):
                passed[route.sni].setdefault(listener, position)
    for position, route in traffic.routes.items():
        if route is None or route.host is None or route.host not in passed:
            continue
        for listener in traffic.on(route):
            if listener in passed[route.host]:
                other = _told(traffic, ("routes", passed[route.host][listener]))
                yield (
                    ("routes", position, "host"),
                    f"`{route.host}` is passed through by {other} on listener `{listener}`, so no request for it is "
                    "read (give one of the two other `listeners`, or another name)",
                )
                break
