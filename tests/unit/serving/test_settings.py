import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contracts.providers import Cuda
from serving.execution import Execution
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
        ({"KEYS": "k", "RATE_PER_S": "fast"}, "RATE_PER_S is 'fast'"),
        ({"KEYS": "k", "RATE_PER_S": "nan"}, "RATE_PER_S is 'nan'"),
        ({"KEYS": "k", "RATE_PER_S": "0"}, "RATE_PER_S is '0'"),
        ({"KEYS": "k", "RATE_PER_S": "5", "BURST": "0"}, "BURST is '0'"),
        ({"KEYS": "k", "RATE_PER_S": "5", "BURST": "1.5"}, "BURST is '1.5'"),
        ({"KEYS": "k", "BURST": "5"}, "needs PACELINE_SERVING_RATE_PER_S"),
        ({"RATE_PER_S": "5"}, "set PACELINE_SERVING_KEYS"),
        ({"FEATURES_SHARE": "5%"}, "FEATURES_SHARE is '5%', expected a share"),
        ({"FEATURES_SHARE": "1.01"}, "FEATURES_SHARE is '1.01'"),
        ({"FEATURES_SHARE": "nan"}, "FEATURES_SHARE is 'nan'"),
        ({"LOG_POLICY": "keep"}, "LOG_POLICY is 'keep', expected drop"),
        ({"PROVIDERS": "cudda"}, r"PROVIDERS is 'cudda' .*did you mean cuda\?"),
        ({"PROVIDERS": '[{"name": "cuda", "devce_id": 1}]'}, r"did you mean device_id\?"),
        ({"REQUIRE_PROVIDER": "gpu"}, "REQUIRE_PROVIDER is 'gpu': 'gpu' is no execution provider"),
        ({"PROVIDERS": "cpu", "REQUIRE_PROVIDER": "cuda"}, "cuda is required, and is not among the providers"),
        ({"REDIS_URL": "redis://x"}, "set PACELINE_SERVING_KEYS, or PACELINE_SERVING_ACCESS"),
        ({"KEYS": "k", "REDIS_URL": "http://:secret-word@x"}, "REDIS_URL begins with none of redis://"),
        ({"TLS_KEY": "k"}, "TLS_CERTIFICATE and PACELINE_SERVING_TLS_KEY go together"),
        ({"TLS_CERTIFICATE": "c"}, "TLS_CERTIFICATE and PACELINE_SERVING_TLS_KEY go together"),
        ({"TLS_CLIENT_CA": "a"}, "TLS_CLIENT_CA needs"),
        ({"TLS_CERTIFICATE": "c", "TLS_KEY": "k", "TLS_CLIENT_REQUIRED": "yes"}, "TLS_CLIENT_REQUIRED needs"),
        ({"TLS_CLIENT_REQUIRED": "perhaps"}, "TLS_CLIENT_REQUIRED is 'perhaps'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        read_settings(environment(**changes))


def test_others_may_reach_a_server_that_has_a_token_which_is_never_shown() -> None:
    settings = read_settings(environment(HOST="0.0.0.0", CONTROL_TOKEN="secret-word"))
    assert settings.control_token == "secret-word"
    assert "secret-word" not in repr(settings)


def test_the_file_of_the_keys_and_the_usual_limit_are_settings_and_none_by_default() -> None:
    usual = read_settings(environment())
    assert (usual.keys, usual.rate_per_s, usual.burst) == (None, None, None)
    named = read_settings(environment(KEYS="keys.json", RATE_PER_S="2.5", BURST="9"))
    assert (named.keys, named.rate_per_s, named.burst) == (Path("keys.json"), 2.5, 9)


def test_rows_of_the_log_are_dropped_by_default_and_answers_fail_where_that_is_asked_for() -> None:
    assert read_settings(environment()).log_policy == "drop"
    assert read_settings(environment(LOG_POLICY="fail")).log_policy == "fail"


def test_the_machine_of_a_server_may_be_said_in_its_settings_and_is_left_to_the_bundle_by_default() -> None:
    assert read_settings(environment()).execution == Execution()
    found = read_settings(environment(PROVIDERS='[{"name": "cuda", "device_id": 1}, "cpu"]', REQUIRE_PROVIDER="cuda"))
    assert found.execution == Execution(providers=(Cuda(device_id=1), "cpu"), require="CUDAExecutionProvider")
    assert read_settings(environment(REQUIRE_PROVIDER="none")).execution == Execution(is_requirement_lifted=True)


def test_the_files_of_access_and_tls_are_settings_and_the_password_of_redis_is_never_shown() -> None:
    usual = read_settings(environment())
    assert (usual.access, usual.redis_url, usual.tls_certificate, usual.tls_client_required) == (
        None,
        None,
        None,
        False,
    )
    tls = {"TLS_CERTIFICATE": "c", "TLS_KEY": "k", "TLS_CLIENT_CA": "a", "TLS_CLIENT_REQUIRED": "yes"}
    named = read_settings(environment(ACCESS="access.toml", RATE_PER_S="5", REDIS_URL="redis://:secret-word@x", **tls))
    assert (named.access, named.tls_client_ca, named.tls_client_required) == (Path("access.toml"), Path("a"), True)
    assert "secret-word" not in repr(named)
    with pytest.raises(SettingsError) as refused:
        read_settings(environment(KEYS="k", REDIS_URL="http://:secret-word@x"))
    assert "secret-word" not in str(refused.value)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_log_that_must_be_written_and_cannot_is_a_settings_error_that_says_what_to_do(
    tmp_path: Path, workers: str
) -> None:
    (tmp_path / "file").touch()
    told = environment(STATE=str(tmp_path / "s"), PREDICTIONS=str(tmp_path / "file" / "p"), LOG_POLICY="fail", PORT="0")
    told = {**os.environ, **told, f"{PREFIX}WORKERS": workers}
    ended = subprocess.run([sys.executable, "-m", "serving"], env=told, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2, ended.stderr
    assert f"{PREFIX}PREDICTIONS is {tmp_path}/file/p, which cannot be written: [Errno 20]" in ended.stderr
    assert "let the server's user write there, or name another folder" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_state_folder_that_cannot_be_written_is_a_settings_error_that_says_what_to_do(
    tmp_path: Path, workers: str
) -> None:
    (tmp_path / "file").touch()  # nothing can be made below it, by root neither
    told = environment(STATE=str(tmp_path / "file" / "state"), PREDICTIONS=str(tmp_path / "p"), PORT="0")
    told = {**os.environ, **told, f"{PREFIX}WORKERS": workers}
    ended = subprocess.run([sys.executable, "-m", "serving"], env=told, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2, ended.stderr
    assert f"{PREFIX}STATE is {tmp_path}/file/state, which cannot be used: [Errno 20]" in ended.stderr
    assert "let the server's user write there, or name another folder" in ended.stderr
    assert "Traceback" not in ended.stderr
