"""
The ways from the load to the responder: which programs stand on them, and how each is set up.

A way is a function that starts its programs on a ground and returns where the load goes. What is measured there and
what it may cost: `cases` and `bars`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from load import ENDPOINT
from programs import Ground, Program, free_address

ANYWHERE = "127.0.0.1:0"
# The access log is off and metrics are on, as in every comparison of the table.
QUIET = ("--access-log", "off", "--log-format", "json")

NGINX = """
daemon off; master_process off; pid {name}.pid; error_log {name}.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
    {more}
    upstream responder {{ server {upstream}; keepalive {kept}; keepalive_requests 1000000000; }}
    server {{
        listen {listen};
        location / {{ proxy_pass http://responder; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    maxconn 1000
defaults
    mode {mode}
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"""

HAPROXY_HTTP = """
    http-reuse always
frontend proxy
    bind {address}
    default_backend responder
backend responder
    server responder {upstream}
"""


@dataclass(frozen=True)
class Way:
    """Where the load goes, and what it costs on the way."""

    address: str
    """Where downstreams connect."""
    proxies: tuple[Program, ...]
    """The programs whose CPU time is the cost."""


Build = Callable[[Ground], Way]


def responder(ground: Ground) -> tuple[str, Program]:
    """The upstream of every way: its address and the program."""
    program = ground.start("responder", ground.tools.peer("responder"), "0")
    return str(program.event("listening")["address"]), program


def direct(ground: Ground) -> Way:
    """No proxy; the cost is the responder's own."""
    address, program = responder(ground)
    return Way(address, (program,))


def nginx(ground: Ground) -> Way:
    """nginx, one worker, connections to the upstream kept."""
    return start_nginx(ground, "nginx", kept=128)


def start_nginx(ground: Ground, name: str, *, kept: int, listening: str = "", more: str = "") -> Way:
    """nginx before the responder; `listening` is said of its address, `more` of all of it."""
    address = free_address()
    values = {"name": name, "listen": f"{address}{listening}", "more": more, "kept": kept}
    file = ground.write(f"{name}.conf", NGINX.format(**values, upstream=responder(ground)[0]))
    program = ground.start(name, "nginx", "-p", f"{ground.folder}/", "-c", file)
    program.listening(address)
    return Way(address, (program,))


def haproxy(ground: Ground) -> Way:
    """HAProxy in `mode http`, one thread, connections to the upstream shared."""
    return start_haproxy(ground, "http", HAPROXY_HTTP, responder(ground)[0])


def start_haproxy(ground: Ground, mode: str, rest: str, upstream: str) -> Way:
    """HAProxy, one thread; `rest` is its configuration behind the defaults."""
    address = free_address()
    text = (HAPROXY + rest.removeprefix("\n")).format(mode=mode, address=address, upstream=upstream)
    program = ground.start("haproxy", "haproxy", "-db", "-f", ground.write("haproxy.cfg", text))
    program.listening(address)
    return Way(address, (program,))


def gateway(ground: Ground, workers: int = 1) -> tuple[Program, str, str]:
    """A gateway: the program, its address for downstreams and that for agents."""
    command = ["gateway", "--proxy", ANYWHERE, "--agents", ANYWHERE, "--admin", ANYWHERE]
    program = ground.start("gateway", ground.tools.tidegate, *command, "--workers", str(workers), *QUIET)
    proxy, agents = (str(program.event("listening", listener=name)["address"]) for name in ("proxy", "agents"))
    return program, proxy, agents


def agent(ground: Ground, agents: str, kind: str, upstream: str) -> Program:
    """An agent with one tunnel, connected. One, because the systems compared with have one."""
    command = ["agent", kind, ENDPOINT, upstream, "--connect", f"http://{agents}", "--connections", "1"]
    program = ground.start("agent", ground.tools.tidegate, *command, *QUIET)
    program.event("connected")
    return program


def tunnel(ground: Ground) -> Way:
    """HTTP through gateway and agent, one worker."""
    return _tunnel(ground, 1)


def tunnel_of_two_workers(ground: Ground) -> Way:
    """The same with two workers: a downstream may be on another one than the tunnel."""
    return _tunnel(ground, 2)


def _tunnel(ground: Ground, workers: int) -> Way:
    upstream, _ = responder(ground)
    gate, proxy, agents = gateway(ground, workers)
    return Way(proxy, (gate, agent(ground, agents, "http", upstream)))


def tcp(ground: Ground) -> Way:
    """TCP through forward, gateway and agent."""
    upstream, _ = responder(ground)
    gate, proxy, agents = gateway(ground)
    offered = agent(ground, agents, "tcp", upstream)
    connect = ("--connect", f"http://{proxy}")
    forward = ground.start("forward", ground.tools.tidegate, "forward", ANYWHERE, ENDPOINT, *connect, *QUIET)
    return Way(str(forward.event("listening")["address"]), (forward, gate, offered))


def go_tunnel(ground: Ground) -> Way:
    """HTTP through the Go pair, a stream for each request."""
    upstream, _ = responder(ground)
    server, proxy, offered = _go_pair(ground, "http", upstream)
    return Way(proxy, (server, offered))


def go_tcp(ground: Ground) -> Way:
    """TCP through the Go forward, server and agent."""
    upstream, _ = responder(ground)
    server, proxy, offered = _go_pair(ground, "tcp", upstream)
    command = ("--connect", f"http://{proxy}", ANYWHERE, ENDPOINT)
    forward = ground.start("piko-forward", ground.tools.peer("piko-forward"), *command)
    return Way(str(forward.event("listening")["address"]), (forward, server, offered))


def _go_pair(ground: Ground, kind: str, upstream: str) -> tuple[Program, str, Program]:
    server = ground.start("piko-server", ground.tools.peer("piko-server"))
    listening = server.event("listening")
    command = ("--connect", f"http://{listening['upstream']}", kind, ENDPOINT, upstream)
    offered = ground.start("piko-agent", ground.tools.peer("piko-agent"), *command)
    offered.event("connected")
    return server, str(listening["proxy"]), offered
