"""Files of kiagateway that nobody would write by hand."""

import pytest

from tidegate.errors import ConfigError
from tidegate.importers.kiagateway import gateway

LONG = ".".join("a" * 20_000)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[https_backends]\na = " + "[" * 200_000, "servers.toml"),
        ("[https_backends]\na = " + "{a = " * 200_000, "servers.toml"),
        (f'[https_backends]\n[http_backends]\n{LONG} = "h:1"', "servers.toml:3"),
        (f'[https_backends]\n[{LONG}]\na = "h:1"', "servers.toml:2"),
        (f'[https_backends]\na = {{{LONG} = "h:1"}}', "servers.toml:2"),
    ],
    ids=["lists", "tables", "key", "heading", "inline"],
)
def test_what_is_nested_too_deeply_is_a_mistake_with_the_name_of_the_file(text: str, place: str) -> None:
    with pytest.raises(ConfigError, match="nested too deeply") as caught:
        gateway(text, "servers.toml")
    assert caught.value.mistakes[0].startswith(f"{place}: ")
    assert len(str(caught.value)) < 200
