"""Command lines of quic-reverse-http-tunnel: where they stand in a text, and how their flags may be written."""

import pytest

from tidegate.errors import ConfigError
from tidegate.importers.quic_tunnel import CLIENT, CLIENT_TCP, SERVER, agent, find, server, words

UNIT = """\
[Unit]
Description=the quic-client of dc1
[Service]
Environment=A=b
ExecStart=-/usr/local/bin/quic-client -server=gate:8888 \\
    -ca-file '/etc/a b/ca.crt' -v 2
ExecStop=/bin/true quic-client
"""

FILES = {"ca-file": "ca", "cert-file": "c", "cert-key": "k"}


@pytest.mark.parametrize(
    ("text", "program", "rest", "where"),
    [
        (UNIT, CLIENT, ["-server=gate:8888", "-ca-file", "/etc/a b/ca.crt", "-v", "2"], "file:5"),
        ("quic-server\n", SERVER, [], "file:1"),
        ("# quic-server -a\nexec env A=b ./quic-server -x 1 > log 2>&1 &\n", SERVER, ["-x", "1"], "file:2"),
        ("cd /; quic-client-tcp -x=1 | tee log", CLIENT_TCP, ["-x=1"], "file:1"),
        ("tidegate quic-client --allow '*.a:1'", CLIENT, ["--allow", "*.a:1"], "file:1"),
        ('echo "unbalanced\nquic-server\n', SERVER, [], "file:2"),
    ],
)
def test_the_command_line_of_a_script_or_a_unit_is_found(text: str, program: str, rest: list[str], where: str) -> None:
    line = find(text, "file")
    assert (line.program, list(line.words), line.where) == (program, rest, where)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "file: no command line of quic-server, quic-client, quic-client-tcp in it"),
        ("quic-server -a\nquic-client -b\n", "file: more than one command line (file:1, file:2)"),
        ("quic-client -server $SERVER", "file:1: '$SERVER' is filled in by a shell"),
        ("quic-client `cat flags`", "file:1: '`cat' is filled in by a shell"),
    ],
)
def test_a_text_without_one_clear_command_line_is_a_mistake(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find(text, "file")
    assert str(caught.value).startswith(said)


def test_flags_are_written_with_one_dash_or_two_and_switches_may_have_a_value() -> None:
    assert words(SERVER, ["-listen-quic=:1", "--listen-tcp", ":2", "-v", "2", "-logtostderr=false"]) == [
        "--listen-quic", ":1", "--listen-tcp", ":2", "--v", "2",
    ]  # fmt: skip
    assert words(CLIENT, ["-alsologtostderr", "-server=", "-ca-file"]) == [
        "--alsologtostderr", "--server", "", "--ca-file",
    ]  # fmt: skip
    assert words(CLIENT, ["--listen-quic", "-h", "--", "x"]) == ["--listen-quic", "-h", "--", "x"]
    with pytest.raises(ConfigError, match="--logtostderr: 'maybe' is neither true nor false"):
        words(CLIENT, ["-logtostderr=maybe"])


def test_every_file_that_is_missing_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        server({"cert-file": "c"}, "here")
    assert list(caught.value.mistakes) == [
        "here: --cert-key is missing (write --cert-key FILE)",
        "here: --client-ca-file is missing (write --client-ca-file FILE)",
    ]


@pytest.mark.parametrize("address", ["gate", "gate:0", ":8888", "gate:99999", "[::1]", "a b:1"])
def test_a_server_or_upstream_is_a_host_and_a_port(address: str) -> None:
    for flags in ({"server": address, "upstream": "a:1"}, {"upstream": address}):
        with pytest.raises(ConfigError, match=r"is no address \(write HOST:PORT\)"):
            agent(CLIENT_TCP, FILES | flags, (), "here")


def test_a_client_is_open_to_what_is_safe_until_an_allow_list_is_written() -> None:
    everything = agent(CLIENT, FILES, (), "here")
    assert everything.tree.data["endpoints"][0]["allow"] == ["0.0.0.0/0", "::/0"]
    assert "--allow" in everything.notes[0].text
    some = agent(CLIENT, FILES, ("10.0.0.0/8:10250",), "here")
    assert some.tree.data["endpoints"][0]["allow"] == ["10.0.0.0/8:10250"]
    assert not some.notes
    assert not agent(CLIENT_TCP, FILES | {"upstream": "[::1]:1"}, (), "here").notes
