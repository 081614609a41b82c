"""What a mistake shows of what somebody wrote."""

import pytest

from tidegate.config.load import parse
from tidegate.config.model import Gateway
from tidegate.config.whole import whole
from tidegate.errors import ConfigError


@pytest.mark.parametrize(
    "address", ["http://user:PWSECRET@h:1", "user:PWSECRET@h:1", "http://user:PW/S#E?@CRET@h:1", "user:it's PWSECRET@h"]
)
def test_a_password_in_an_address_is_in_no_mistake(address: str) -> None:
    text = f'routes:\n  - host: a.example\n    to: {{addresses: ["{address}"]}}\n'
    with pytest.raises(ConfigError) as caught:
        whole(Gateway, parse(text, "tidegate.yaml"))
    [mistake] = caught.value.mistakes
    assert "***@h" in mistake
    assert "PW" not in str(caught.value)
    assert "CRET" not in str(caught.value)
    assert "user" not in mistake


@pytest.mark.parametrize(
    "mistake",
    [
        "/etc/tidegate@1.yaml:3: node: 'a' is no name",
        "tidegate@prod.yaml:12: routes[0].to: expected one of `addresses`, `endpoint`",
        "log.level: expected 'info' or 'warn'",
    ],
)
def test_a_mistake_without_a_password_is_told_as_it_is(mistake: str) -> None:
    assert ConfigError(mistake).mistakes == (mistake,)
