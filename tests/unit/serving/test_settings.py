from typing import Any

import pytest

from serving.settings import PREFIX, SettingsError, read_settings


def environment(**changes: str) -> dict[str, str]:
    found = {"PROJECT": "flight_delay", "STATE": "s", "PREDICTIONS": "p", **changes}
    return {"PATH": "/bin", **{f"{PREFIX}{name}": value for name, value in found.items()}}


def test_the_defaults_listen_on_loopback_and_inject_no_faults() -> None:
    settings = read_settings(environment())
    assert (settings.host, settings.port, settings.allow_faults) == ("127.0.0.1", 8500, False)


def test_a_misspelt_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match="did you mean PACELINE_SERVING_PORT"):
        read_settings(environment(PROT="1"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"PROJECT": ""}, "PROJECT is not set"),
        ({"PORT": "70000"}, "PORT is '70000'"),
        ({"PORT": "²"}, "PORT is '²'"),
        ({"ALLOW_FAULTS": "perhaps"}, "ALLOW_FAULTS is 'perhaps'"),
        ({"HOST": "0.0.0.0"}, "set PACELINE_SERVING_CONTROL_TOKEN"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        read_settings(environment(**changes))


def test_others_may_reach_a_server_that_has_a_token_which_is_never_shown() -> None:
    settings = read_settings(environment(HOST="0.0.0.0", CONTROL_TOKEN="secret-word"))
    assert settings.control_token == "secret-word"
    assert "secret-word" not in repr(settings)
