"""Who may offer and who may reach, as it is written, and as the engine and the verification get it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tidegate.config.auth import Auth, SecretSource, Verifier
from tidegate.config.credentials import admin_set, certificate_sets, member_of, password_sets, verifier_sets
from tidegate.config.effective import as_json, as_yaml
from tidegate.config.load import dump, parse, validate
from tidegate.config.model import Gateway
from tidegate.config.schema import schema
from tidegate.config.snapshot import gateway_snapshot
from tidegate.config.tree import Tree
from tidegate.errors import ConfigError

MAIN = "verifiers: {main: {secret: {env: KEY}}}\n"


def gateway(text: str) -> Gateway:
    return validate(Gateway, parse(text, "f"))


def snapshot(text: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(gateway_snapshot(gateway(text)))
    return made


def mistakes(text: str) -> str:
    with pytest.raises(ConfigError) as told:
        gateway(text)
    return "\n".join(told.value.mistakes)


def verifier(text: str) -> Verifier:
    return gateway(f"verifiers: {{main: {text}}}").verifiers["main"]


@pytest.mark.parametrize(
    "auth",
    ["", "{}", "[]", "''", "true", "{verifiers: }", "{verifiers: []}", "{verifiers: ''}", "{by_tenant: false}",
     "{users: }", "{users: {}}", "{certificate: }", "{certificate: {}}", "{realm: x}", "{pass: true}", "open"],
)  # fmt: skip
@pytest.mark.parametrize(
    "place",
    ["listeners: {{web: {{bind: ':80', auth: {}}}}}", "listeners: {{a: {{bind: ':80', kind: tunnel, auth: {}}}}}",
     "routes: [{{to: {{endpoint: x}}, auth: {}}}]", "admin: {{auth: {}}}"],
)  # fmt: skip
def test_what_asks_for_nothing_is_never_read_as_open(place: str, auth: str) -> None:
    assert "auth" in mistakes(MAIN + place.format(auth))


@pytest.mark.parametrize("key", ["allow", "deny"])
@pytest.mark.parametrize("value", ["", "[]", "''", "','", "${NOBODY_SETS_THIS:}"])
@pytest.mark.parametrize(
    "place", ["listeners: {{web: {{bind: ':80', {}: {}}}}}", "routes: [{{to: {{endpoint: x}}, {}: {}}}]"]
)
def test_an_empty_list_of_networks_is_a_mistake(place: str, key: str, value: str) -> None:
    if value.startswith("$"):
        value = f'"{value}"'
    assert key in mistakes(place.format(key, value))


def test_none_is_written_out() -> None:
    read = gateway("listeners: {web: {bind: ':80', auth: none}}\nroutes: [{to: {endpoint: x}, auth: none}]")
    assert read.listeners["web"].auth == read.routes[0].auth == Auth.model_validate("none")
    made = snapshot(MAIN + "listeners: {web: {bind: ':80', auth: {verifiers: [main]}}}\n"
                    "routes: [{path: /a, to: {endpoint: x}, auth: none}, {path: /b, to: {endpoint: x}},"
                    " {path: /c, to: {endpoint: x}, auth: {verifiers: [main], pass: true}}]")  # fmt: skip
    listener = made["listeners"][0]["auth"]
    assert [each["auth"] for each in made["routes"]] == [None, "inherit", {**listener, "pass": True}]


def test_a_secret_stands_nowhere_in_a_configuration() -> None:
    for source in ("s3cret", "{value: s3cret}", "{inline: s3cret}", "{_inline: s3cret}", "[s3cret]"):
        told = mistakes(f"verifiers: {{main: {{secret: {source}}}}}")
        assert told.startswith("f:1: verifiers.main.secret")
        assert "s3cret" not in told.replace("a secret", "")
    assert "not file and env" in mistakes("verifiers: {main: {secret: {file: a, env: B}}}")


def test_a_value_that_an_importer_holds_is_kept_and_never_shown() -> None:
    tree = Tree(data={"verifiers": {"main": {"secret": SecretStr("s3cret")}}})
    read = validate(Gateway, tree)
    source = read.verifiers["main"].secret
    assert source is not None
    assert source.inline is not None
    assert source.inline.get_secret_value() == "s3cret"
    assert "s3cret" not in f"{read!r}{read}{dump(read)}{as_yaml(read, tree)}{gateway_snapshot(read)!r}"
    assert "secret: '***'" in as_yaml(read, tree)
    assert SecretSource.model_validate(SecretStr("a")) != SecretSource.model_validate(SecretStr("b"))


def test_a_command_is_words_without_a_shell() -> None:
    for written in ("pass show 'a key'", "[pass, show, a key]"):
        secret = verifier(f"{{secret: {{command: {written if written[0] == '[' else json.dumps(written)}}}}}").secret
        assert secret is not None
        assert secret.command == ("pass", "show", "a key")


def test_what_is_shown_of_auth_is_what_was_written_and_no_word_of_a_command() -> None:
    tree = parse("""
verifiers: {main: {secret: {command: [vault, read, --token=s3cret]}}}
listeners: {web: {bind: ":80", auth: {verifiers: [main], pass: true}}}
routes: [{to: {endpoint: x}, auth: none}]
""", "f")  # fmt: skip
    shown = as_yaml(validate(Gateway, tree), tree)
    assert "s3cret" not in shown
    again = parse(shown, "shown")
    assert again.data["verifiers"]["main"]["secret"] == {"command": ["vault", "***"]}
    assert again.data["listeners"]["web"]["auth"] == {"verifiers": ["main"], "pass": True}
    assert again.data["routes"][0]["auth"] == "none"
    assert validate(Gateway, again)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "exactly one of `secret`, `public_key` and `jwks`"),
        ("{secret: {env: A}, public_key: {env: B}}", "not secret and public_key"),
        ("{secret: {env: A}, algorithms: [RS256]}", "`RS256` does not fit `secret`"),
        ("{public_key: {env: A}, algorithms: [ES256, HS256]}", "`HS256` does not fit `public_key`"),
        ("{jwks: {file: a}, algorithms: [HS256]}", "`HS256` does not fit `jwks`"),
        ("{secret: {env: A}, algorithms: [none]}", "algorithms[0]"),
        ("{secret: {env: A}, algorithms: []}", "`algorithms` has no value"),
        ("{secret: {env: A}, issuer: }", "`issuer` has no value"),
        ("{secret: {env: A}, issuer: ' '}", "issuer: is empty"),
        ("{secret: {env: A}, audience: []}", "`audience` has no value"),
        ("{secret: {env: A}, audience: ['']}", "audience[0]: is empty"),
        ("{secret: {env: A}, tenant: a/b}", "no name of a tenant"),
        ("{secret: {env: A}, limits: {}}", "at least one of"),
        ("{secret: {env: A}, limits: {requests: 0}}", "limits.requests"),
        ("{secret: {env: 'A B'}}", "no name of an environment variable"),
        ("{jwks: {url: ftp://x/y}}", "no URL of keys"),
        ("{jwks: {url: 'https://me:pw@x/y'}}", "cannot hold a user or password"),
        ("{jwks: {url: http://x/y, ca: a}}", "does not use TLS"),
        ("{jwks: {file: a, timeout: 3s}}", "`timeout` belongs to `url`"),
        ("{jwks: {}}", "exactly one of `url` and `file`"),
        (
            "{jwks: {url: https://x/y, max_stale: 1m}}",
            "`max_stale` (60s) is less than `refresh` (5m, by default): keys would be too old before they are fetched",
        ),
        ("{jwks: {url: https://x/y, refresh: 2d}}", "`max_stale` (24h, by default) is less than `refresh` (48h)"),
        ("{jwks: {url: https://x/y, refresh: 10s, max_stale: 9s}}", "`max_stale` (9s) is less than `refresh` (10s)"),
    ],
)
def test_a_mistake_in_a_verifier_says_what_to_do(text: str, said: str) -> None:
    assert said in mistakes(f"verifiers: {{main: {text}}}")


@pytest.mark.parametrize(
    "jwks",
    [
        "{url: 'ftp://x/y?apikey=QSECRET'}",
        "{url: 'https://x/y?apikey=QSECRET and more'}",
        "{url: 'https://x/y?apikey=QSECRET#part'}",
        "{url: 'https://x/y#QSECRET'}",
        "{url: 'https://x:y/?apikey=QSECRET'}",
        "{url: 'https://[x/?apikey=QSECRET'}",
        "{url: 'https://me@x/?apikey=QSECRET'}",
        "{url: 'http://x/y?apikey=QSECRET', ca: a}",
        "{url: 'https://x/y?apikey=QSECRET', file: a}",
        "{urls: 'https://x/y?apikey=QSECRET'}",
        "'https://x/y?apikey=QSECRET'",
        "['https://x/y?apikey=QSECRET']",
        "{url: ['https://x/y?apikey=QSECRET']}",
    ],
)
def test_the_query_of_a_url_of_keys_is_in_no_mistake(jwks: str) -> None:
    assert "QSECRET" not in mistakes(f"verifiers: {{main: {{jwks: {jwks}}}}}")


def test_the_query_of_a_url_of_keys_is_used_and_not_shown() -> None:
    tree = parse("verifiers: {main: {jwks: {url: 'https://x/y?apikey=QSECRET'}}}", "f")
    read = validate(Gateway, tree)
    jwks = read.verifiers["main"].jwks
    assert jwks is not None
    assert jwks.url == "https://x/y?apikey=QSECRET"
    assert "https://x/y?…" in as_yaml(read, tree)
    assert "QSECRET" not in as_yaml(read, tree) + json.dumps(as_json(read, tree)) + gateway_snapshot(read).decode()


def test_the_set_of_a_verifier_changes_with_what_decides_and_not_with_its_key() -> None:
    def name(text: str) -> str:
        read = gateway(f"verifiers: {{main: {text}}}\nadmin: {{auth: {{verifiers: [main]}}}}")
        return str(admin_set(read))

    first = name("{secret: {env: A}}")
    assert re.fullmatch(r"main/[0-9a-f]{16};[0-9a-f]{16}", first)
    assert first == name("{secret: {file: other.key}}") == name("{secret: {env: A}, algorithms: [HS256, HS384, HS512]}")
    terms = [
        "algorithms: [HS256]", "issuer: x", "audience: x", "audience: [x, y]", "require_expiry: false",
        "unlimited: true", "tenant: x",
    ]  # fmt: skip
    members = {member_of(first), *(member_of(name(f"{{secret: {{env: A}}, {each}}}")) for each in terms)}
    assert len(members) == 1 + len(terms)
    # What is only more or less of the same is another set, and ends nothing.
    more = [name(f"{{secret: {{env: A}}, {each}}}") for each in ("leeway: 1s", "limits: {requests: 1}")]
    assert len({first, *more}) == 3
    assert {member_of(each) for each in more} == {member_of(first)}


def test_a_set_changes_with_the_tenants_that_its_credentials_may_name_and_with_no_others() -> None:
    def names(tenants: str) -> list[str]:
        tls = "tls: {certificates: [{cert: c.pem, key: k.pem}], client_ca: ca.pem}"
        read = gateway(f"""
verifiers: {{open: {{secret: {{env: A}}}}, owned: {{secret: {{env: B}}, tenant: acme}}}}
{tenants}
listeners:
  a: {{bind: ":1", auth: {{verifiers: [open]}}}}
  b: {{bind: ":2", auth: {{verifiers: [owned]}}}}
  c: {{bind: ":3", {tls}, auth: {{certificate: {{endpoints: dns, tenant: o}}}}}}
  d: {{bind: ":4", {tls}, auth: {{certificate: {{endpoints: dns}}}}}}
""")
        return [*verifier_sets(read), *certificate_sets(read)]

    both, one, none = names("tenants: {acme: {}, beta: {}}"), names("tenants: {acme: {}}"), names("")
    assert both == names("tenants: {beta: {}, acme: {limits: {sessions: 1}}}")
    for position, changes in enumerate((True, False, True, False)):
        assert (len({both[position], one[position], none[position]}) == 3) is changes, position


def test_sets_stand_for_verifiers_by_name() -> None:
    text = """
verifiers: {main: {secret: {env: A}}, other: {public_key: {env: B}, require_expiry: false, leeway: 5s},
            unused: {secret: {env: C}}}
listeners:
  agents: {bind: ":1", kind: tunnel, auth: {verifiers: [main]}}
  web: {bind: ":2", auth: {verifiers: [main, other]}}
admin: {auth: {verifiers: [other]}}
"""
    agents, web = (each["auth"]["set"] for each in snapshot(text)["listeners"])
    admin = admin_set(gateway(text))
    named = {key: [each.name for each in found] for key, found in verifier_sets(gateway(text)).items()}
    assert named == {agents: ["main"], web: ["main", "other"], admin: ["other"]}
    signed = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"]
    assert snapshot(text)["verifier_sets"] == [
        {"id": agents, "algorithms": ["HS256", "HS384", "HS512"], "require_expiry": True, "leeway": 0},
        {"id": web, "algorithms": ["HS256", "HS384", "HS512", *signed], "require_expiry": False, "leeway": 5},
    ]


def test_tokens_of_a_tenants_verifiers_are_the_tenants() -> None:
    text = """
verifiers: {one: {secret: {env: A}}, two: {secret: {env: B}}}
tenants: {acme: {verifiers: [one], limits: {requests: 5, bytes: 1MiB}}, beta: {verifiers: [two]}, idle: {}}
listeners: {agents: {bind: ":1", kind: tunnel, auth: {by_tenant: true}}}
"""
    made = snapshot(text)
    ids = made["listeners"][0]["auth"]["by_tenant"]
    sets = verifier_sets(gateway(text))
    assert {tenant: [(each.name, each.verifier.tenant) for each in sets[name]] for tenant, name in ids.items()} == {
        "acme": [("one", "acme")], "beta": [("two", "beta")],
    }  # fmt: skip
    assert [each["id"] for each in made["verifier_sets"]] == list(ids.values())
    limits = {"sessions": None, "streams": None, "requests": 5, "bytes": 1048576}
    assert made["tenants"] == {"acme": limits, "beta": None, "idle": None}


def test_what_a_tenant_verifies_with_speaks_for_no_other_wherever_it_is_asked() -> None:
    text = """
verifiers: {main: {secret: {env: A}}, acme: {secret: {env: B}}}
tenants: {acme: {verifiers: [acme]}, beta: {}}
listeners: {web: {bind: ":0", auth: {verifiers: [main, acme]}}}
"""
    (named,) = verifier_sets(gateway(text)).values()
    assert [(each.name, each.verifier.tenant) for each in named] == [("main", None), ("acme", "acme")]


def test_passwords_and_certificates_have_sets_of_their_own(tmp_path: Path) -> None:
    text = """
listeners:
  web:
    bind: ":443"
    tls: {certificates: [{cert: c, key: k}], client_ca: ca}
    auth: {certificate: {endpoints: dns, tenant: o}}
routes: [{to: {endpoint: x}, auth: {users: {file: users}, realm: Shop}}]
"""
    read = gateway(text)
    (password,), (certificate,) = password_sets(read), certificate_sets(read)
    assert password.startswith("users/")
    assert certificate.startswith("certificate/")
    assert certificate_sets(read)[certificate].tenant == "o"


def test_whose_endpoint_a_route_leads_to() -> None:
    text = """
listeners: {web: {bind: ":1", tenant: acme}, db: {bind: ":2", kind: tcp, tenant: acme, to: {endpoint: pg}}}
routes:
  - {path: /a, to: {endpoint: x}}
  - {path: /b, to: {endpoint: x}, tenant: beta}
  - {path: /c, to: {endpoint: x, tenant: gamma}, tenant: beta}
"""
    made = snapshot(text)
    assert made["listeners"][0]["tenant"] == "acme"
    # Where nothing is said the listener's counts, which the engine knows.
    assert [each["action"]["forward"]["to"]["endpoint"]["tenant"] for each in made["routes"]] == ["", "beta", "gamma"]
    assert made["listeners"][1]["to"]["endpoint"]["tenant"] == "acme"


def test_a_route_that_passes_through_may_say_from_where_but_not_ask() -> None:
    text = 'listeners: {web: {bind: ":1", tls: {}}}\nroutes: [{sni: a.example.com, to: {endpoint: x}, %s}]'
    (route,) = snapshot(text % "allow: [10.0.0.0/8], deny: [10.1.0.0/16], tenant: acme")["routes"]
    assert (route["allow"], route["deny"], route["auth"]) == (["10.0.0.0/8"], ["10.1.0.0/16"], "inherit")
    assert "`auth` cannot stand beside `sni`" in mistakes(text % "auth: none")


def test_the_schema_knows_none_and_the_key_that_is_a_word_of_python() -> None:
    short, whole = schema(Gateway)["$defs"]["Auth"]["anyOf"]
    assert short == {"const": "none"}
    assert "pass" in whole["properties"]
    assert "pass_" not in json.dumps(schema(Gateway))
    assert "inline" not in json.dumps(schema(Gateway))
