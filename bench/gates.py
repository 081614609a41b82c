"""
The ways through a gateway by name, and their peers: routes to addresses, TLS ended and TLS passed through.

What comes through a tunnel is in `paths`. The upstream is the responder; where TLS is passed through, an nginx that
ends it stands before the responder, and its CPU time is not counted.
"""

import json
import subprocess

from load import HOST, NAME, SECRET
from paths import ANYWHERE, Way, responder, start_haproxy, start_nginx
from programs import BenchError, Ground, Program

CIPHER = "TLS_AES_128_GCM_SHA256"

NGINX_TLS = (
    "ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.3; "
    "ssl_conf_command Ciphersuites {cipher}; ssl_session_cache off; ssl_session_tickets off;"
)

HAPROXY_SNI = f"""
frontend proxy
    bind {{address}}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{{{ req_ssl_hello_type 1 }}}}
    use_backend vault if {{{{ req_ssl_sni -i {NAME} }}}}
backend vault
    server vault {{upstream}}
"""

HAPROXY_TCP = """
listen proxy
    bind {address}
    server responder {upstream}
"""


def certificate(ground: Ground) -> tuple[str, str]:
    """A certificate for the name of the load, and its key."""
    cert, key = ground.folder / "cert.pem", ground.folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    ran = subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], capture_output=True, check=False)
    if ran.returncode != 0:
        raise BenchError(f"openssl failed: {ran.stderr.decode(errors='replace')}")
    return str(cert), str(key)


def gate(ground: Ground, configuration: dict[str, object]) -> tuple[Program, str]:
    """A gateway with one worker and one listener `web`: the program and the address."""
    whole = {"admin": {"bind": ANYWHERE}, "workers": 1, "access_log": {"to": "off"}, "log": {"format": "json"}}
    # JSON is YAML.
    file = ground.write("tidegate.yaml", json.dumps({**whole, **configuration}))
    program = ground.start("gateway", ground.tools.tidegate, "gateway", "--config", file)
    return program, str(program.event("listening", listener="web")["address"])


def to_address(ground: Ground) -> Way:
    """One route by host, to one address."""
    return _routed(ground, 1)


def to_address_with_a_token(ground: Ground) -> Way:
    """The same route for whoever shows a token."""
    return Way(*asking(ground, {"secret": {"file": ground.write("token.key", SECRET)}, "require_expiry": False}))


def asking(ground: Ground, verifier: dict[str, object]) -> tuple[str, tuple[Program, ...]]:
    """A gateway with one route to an address, for tokens that this verifier accepts."""
    upstream, _ = responder(ground)
    program, address = gate(
        ground,
        {
            "verifiers": {"main": verifier},
            "listeners": {"web": {"bind": ANYWHERE, "auth": {"verifiers": ["main"]}}},
            "upstreams": {"app": {"addresses": [upstream]}},
            "routes": [{"host": HOST, "to": {"upstream": "app"}}, {"to": {"upstream": "app"}}],
        },
    )
    return address, (program,)


def among_a_thousand(ground: Ground) -> Way:
    """The same route among a thousand others."""
    return _routed(ground, 1000)


def _routed(ground: Ground, count: int) -> Way:
    upstream, _ = responder(ground)
    others = [{"host": f"host-{n}.example.com", "path": "/api", "to": {"upstream": "app"}} for n in range(1, count)]
    program, address = gate(
        ground,
        {
            "listeners": {"web": {"bind": ANYWHERE}},
            "upstreams": {"app": {"addresses": [upstream]}},
            "routes": [*others, {"host": HOST, "to": {"upstream": "app"}}],
        },
    )
    return Way(address, (program,))


def ended(ground: Ground) -> Way:
    """TLS ended by the gateway, one route to one address."""
    cert, key = certificate(ground)
    upstream, _ = responder(ground)
    program, address = gate(
        ground,
        {
            "listeners": {"web": {"bind": ANYWHERE, "tls": {"certificates": [{"cert": cert, "key": key}]}}},
            "routes": [{"to": {"addresses": [upstream]}}],
        },
    )
    return Way(address, (program,))


def nginx_ended(ground: Ground) -> Way:
    """TLS ended by nginx, one worker, with the same certificate and cipher, and no session kept."""
    certificate(ground)
    more = NGINX_TLS.format(folder=ground.folder, cipher=CIPHER)
    return start_nginx(ground, "nginx-tls", kept=512, listening=" ssl http2", more=more)


def passed_through(ground: Ground) -> Way:
    """TLS passed through by its server name."""
    upstream = nginx_ended(ground).address
    program, address = gate(
        ground,
        {
            "listeners": {"web": {"bind": ANYWHERE, "tls": {}}},
            "routes": [{"sni": NAME, "to": {"addresses": [upstream]}}],
        },
    )
    return Way(address, (program,))


def haproxy_passed_through(ground: Ground) -> Way:
    """The same by HAProxy."""
    return start_haproxy(ground, "tcp", HAPROXY_SNI, nginx_ended(ground).address)


def haproxy_tcp(ground: Ground) -> Way:
    """HAProxy in `mode tcp` before the responder: what moving bytes without reading them costs."""
    return start_haproxy(ground, "tcp", HAPROXY_TCP, responder(ground)[0])


def kiagateway_http(ground: Ground) -> Way:
    """kiagateway by Host. Its ports are fixed: it needs port 80 and 443, and the right to bind them."""
    program = _kiagateway(ground, responder(ground)[0])
    program.listening("127.0.0.1:80")
    return Way("127.0.0.1:80", (program,))


def kiagateway_tls(ground: Ground) -> Way:
    """kiagateway by server name."""
    program = _kiagateway(ground, nginx_ended(ground).address)
    program.listening("127.0.0.1:443")
    return Way("127.0.0.1:443", (program,))


def _kiagateway(ground: Ground, upstream: str) -> Program:
    text = f'[https_backends]\n"{NAME}" = "{upstream}"\n[http_backends]\n"{HOST}" = "{upstream}"\n'
    return ground.start("kiagateway", ground.tools.peer("kiagateway"), ground.write("servers.toml", text))


def nanoproxy(ground: Ground) -> Way:
    """A proxy in the shape of NanoProxy, with one rule."""
    upstream, _ = responder(ground)
    program = ground.start("nanoproxy", ground.tools.peer("nanoproxy"), "-host", HOST, "-to", upstream)
    return Way(str(program.event("listening")["address"]), (program,))
