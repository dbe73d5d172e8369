import json

import pytest

from pipelines.governance.connections import Connection, ConnectionTextError, find_connection


def found(text: str) -> Connection:
    connection = find_connection("hook", {"AIRFLOW_CONN_HOOK": text})
    assert connection is not None
    return connection


def test_a_connection_of_the_environment_is_read_in_both_of_airflows_forms() -> None:
    written = {
        "conn_type": "smtp",
        "host": "mail.example.org",
        "login": "desk",
        "password": "p@ss/word",
        "port": 587,
        "extra": {"from_email": "desk@example.org"},
    }
    by_uri = found("smtp://desk:p%40ss%2Fword@mail.example.org:587/?from_email=desk%40example.org")
    assert by_uri == found(json.dumps(written)) == found(json.dumps({**written, "extra": json.dumps(written["extra"])}))
    assert (by_uri.password, by_uri.port, by_uri.extra["from_email"]) == ("p@ss/word", 587, "desk@example.org")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ('{"conn_type": "http", "host": "https://hooks.example.org/a"}', "https://hooks.example.org/a"),
        ('{"conn_type": "http", "host": "hooks.example.org"}', "http://hooks.example.org"),
        ("http://hooks.example.org:8443/https", "https://hooks.example.org:8443"),
    ],
)
def test_the_url_of_an_http_connection_is_the_one_that_airflow_takes(text: str, url: str) -> None:
    assert found(text).base_url == url


def test_none_is_none_and_what_cannot_be_read_is_not_repeated() -> None:
    assert find_connection("mail", {"AIRFLOW_CONN_HOOK": "http://hooks.example.org"}) is None
    for text in ("a secret", '{"port": "a secret"}', '{"a secret'):
        with pytest.raises(ConnectionTextError, match="AIRFLOW_CONN_HOOK is neither") as error:
            found(text)
        assert "secret" not in str(error.value)
