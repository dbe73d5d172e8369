import stat
from pathlib import Path

import pytest

from pipelines.demo.observability import MissingProgramError, ObservabilityPorts, programs
from pipelines.demo.story import ALERT_AS_OF, _as_of_alert
from pipelines.wiring import open_ledger


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and a PATH with nothing on it but what a test puts there."""
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PACELINE_LEDGER_URL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def install(folder: Path, name: str) -> None:
    (folder / name).touch()
    (folder / name).chmod(stat.S_IRWXU)


@pytest.mark.parametrize(("there", "missing"), [((), "Prometheus"), (("prometheus",), "Alertmanager")])
def test_a_program_that_is_not_there_is_named_with_how_to_get_it(
    place: Path, there: tuple[str, ...], missing: str
) -> None:
    for name in there:
        install(place, name)
    with pytest.raises(MissingProgramError, match=f"{missing} is not on this machine's PATH.*apt-get install"):
        list(programs("p", 1, 2, ObservabilityPorts(), 1))


@pytest.mark.parametrize("name", ["prometheus-alertmanager", "alertmanager"])
def test_all_three_listen_on_loopback_and_write_below_home(place: Path, tmp_path: Path, name: str) -> None:
    install(place, "prometheus")
    install(place, name)
    metrics, alertmanager, prometheus = programs("p", 1, 2, ObservabilityPorts(3, 4, 5), 15)
    assert metrics.ready_url == "http://127.0.0.1:5/metrics"
    assert alertmanager.command[0] == str(place / name)
    assert "--web.listen-address=127.0.0.1:4" in alertmanager.command
    assert "--cluster.listen-address=" in alertmanager.command
    assert "--web.listen-address=127.0.0.1:3" in prometheus.command
    options = (*alertmanager.command[1:], *prometheus.command[1:])
    written = [option.split("=", 1)[1] for option in options if "/" in option]
    assert all(path.startswith(str(tmp_path)) for path in written)
    secret = tmp_path / "home" / "airflow" / "alert.secret"
    assert len(secret.read_text()) >= 16
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_each_demo_with_an_alert_pretends_a_later_day(place: Path) -> None:
    assert _as_of_alert() == ALERT_AS_OF
    with open_ledger() as ledger:
        ledger.append("flight_delay", "trigger", "2013-08-01", {"trigger": "manual"})
        ledger.append("flight_delay", "trigger", ALERT_AS_OF, {"trigger": "alert"})
    assert _as_of_alert() == "2013-07-29"
