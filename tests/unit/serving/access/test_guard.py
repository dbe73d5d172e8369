import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.tasks import keys
from serving.access import Access, AccessRefusedError, RequestHead, open_access, scope_of
from serving.access.asgi import admitted, head_of
from serving.access.limits import Limit
from serving.app import ModelServer
from serving.settings import Settings, SettingsError
from tests.fixtures.access import hmac_part, issuer_part, write_rules

Headers = list[tuple[bytes, bytes]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def bearer(key: str) -> Headers:
    return [(b"host", b"x"), (b"authorization", b"Bearer " + key.encode())]


def guard(file: Path, **more: Any) -> Access:
    return Access(file, project="flight_delay", **more)


def head(headers: Headers) -> RequestHead:
    return RequestHead("POST", "/v1/predict", b"", headers)


def status_of(access: Access, headers: Headers, needed: Any = "predict") -> int:
    try:
        access.admit(head(headers), needed)
    except AccessRefusedError as refused:
        return refused.status
    return 200


def samples(access: Access) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value for family in access.collect() for sample in family.samples
    }


def test_a_key_opens_what_it_is_for_in_either_header_and_its_client_is_known(file: Path) -> None:
    made = keys.create(file, "acme")
    access = guard(file)
    for headers in (
        bearer(made["key"]),
        [(b"authorization", b"bearer  " + made["key"].encode())],
        [(b"x-api-key", made["key"].encode())],
        [(b"authorization", b"Basic Z2F0ZXdheQ=="), (b"x-api-key", made["key"].encode())],
    ):
        admission = access.admit(head(headers), "predict")
        assert admission == ("acme", made["id"], (), None)
        scope: dict[str, Any] = {"headers": headers}
        assert asyncio.run(admitted(scope, _no_body, admission)) is _no_body
        assert scope["state"] == {"client": "acme", "key_id": made["id"]}


async def _no_body() -> dict[str, Any]:
    raise AssertionError("nobody asks for the body of a request that is not signed")


def test_the_head_of_an_asgi_request_has_its_path_as_it_was_sent() -> None:
    scope = {
        "method": "GET",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"c=d",
        "headers": [],
        "scheme": "https",
        "client": ("10.0.0.1", 5),
    }
    assert head_of(scope) == RequestHead("GET", "/a%20b", b"c=d", [], "https", None, "10.0.0.1")


def wrong_keys(right: str) -> list[Headers]:
    other_secret = right[:-1] + ("A" if right[-1] != "A" else "B")
    other_id = f"pk_{'0' * 12}{right[15:]}"
    wrong = ["", "pk_", right[:-1], right + "A", other_secret, other_id, right.upper(), "é" * 59, "x" * 100_000]
    return [[], [(b"authorization", right.encode())], [(b"authorization", b"Basic " + right.encode())]] + [
        headers for each in wrong for headers in (bearer(each), [(b"x-api-key", each.encode())])
    ]


def test_whatever_is_wrong_with_a_key_the_refusal_is_the_same(file: Path) -> None:
    right = keys.create(file, "acme", days=0)["key"]
    revoked = keys.create(file, "acme", days=0)
    keys.revoke(file, revoked["id"])
    expired = keys.create(file, "brief", days=1)["key"]
    now_s = [0.0]
    access = guard(file, wall_clock=lambda: now_s[0])
    assert status_of(access, bearer(expired)) == 200
    now_s[0] = 4e9
    assert status_of(access, bearer(right)) == 200
    told = set()
    for headers in [*wrong_keys(right), bearer(expired), bearer(revoked["key"]), bearer("pk_" + "0" * 56)]:
        with pytest.raises(AccessRefusedError) as refused:
            access.admit(head(headers), "predict")
        told.add((refused.value.status, refused.value.detail, refused.value.headers))
    assert len(told) == 1
    [(status, detail, answer_headers)] = told
    assert (status, answer_headers) == (401, ((b"www-authenticate", b'Bearer realm="paceline"'),))
    assert "Authorization: Bearer pk_" in detail


def test_a_key_without_the_scope_is_refused_and_told_which_is_missing(file: Path) -> None:
    key = keys.create(file, "prometheus", scopes=["metrics"])["key"]
    access = guard(file)
    assert [status_of(access, bearer(key), needed) for needed in ("predict", "metrics", "metadata")] == [403, 200, 403]
    with pytest.raises(AccessRefusedError, match="has not the scope 'predict'") as refused:
        access.admit(head(bearer(key)), "predict")
    assert b'error="insufficient_scope", scope="predict"' in dict(refused.value.headers)[b"www-authenticate"]


def test_a_key_for_some_projects_opens_only_their_servers(file: Path) -> None:
    key = keys.create(file, "acme", projects=["credit_risk"])["key"]
    assert status_of(guard(file), bearer(key)) == 403
    assert status_of(Access(file, project="credit_risk"), bearer(key)) == 200


@pytest.mark.parametrize(
    ("path", "needed"),
    [
        *((path, None) for path in ("/livez", "/readyz", "/ping", "/v2/health/ready", "/docs", "/control/share")),
        ("/metrics", "metrics"),
        *((path, "metadata") for path in ("/v2", "/v2/models/flight_delay", "/v1/models", "/model-card")),
        *(
            (path, "metadata")
            for path in ("/openapi.json", "/nowhere", "/", "/livez/", "/controls", "/LIVEZ", "//ping")
        ),
    ],
)
def test_what_is_not_open_by_name_needs_a_key(path: str, needed: str | None) -> None:
    assert scope_of(path) == needed


def test_an_empty_bucket_is_told_with_when_to_come_back_and_time_fills_it(file: Path) -> None:
    key = keys.create(file, "acme", rate_per_s=0.5, burst=2)["key"]
    now_s = [0.0]
    access = guard(file, clock=lambda: now_s[0])
    first = dict(access.admit(head(bearer(key)), "predict").headers)
    assert first == {
        b"ratelimit-limit": b"2",
        b"ratelimit-policy": b"2;w=4",
        b"ratelimit-remaining": b"1",
        b"ratelimit-reset": b"2",
    }
    access.admit(head(bearer(key)), "predict")
    with pytest.raises(AccessRefusedError, match="acme has used its 2 requests") as refused:
        access.admit(head(bearer(key)), "predict")
    told = dict(refused.value.headers)
    assert (refused.value.status, told[b"retry-after"], told[b"ratelimit-remaining"]) == (429, b"2", b"0")
    now_s[0] = 2.0
    assert status_of(access, bearer(key)) == 200


def test_two_keys_of_a_client_share_its_rate_and_another_client_has_its_own(file: Path) -> None:
    first, second = (keys.create(file, "acme", rate_per_s=1, burst=1)["key"] for _ in range(2))
    other = keys.create(file, "other", rate_per_s=1, burst=1)["key"]
    access = guard(file, clock=lambda: 0.0)
    assert [status_of(access, bearer(key)) for key in (first, second, other)] == [200, 429, 200]


def test_the_usual_limit_is_for_keys_without_one_of_their_own(file: Path) -> None:
    usual = keys.create(file, "usual")["key"]
    own = keys.create(file, "own", rate_per_s=1, burst=3)["key"]
    access = guard(file, usual=Limit(1.0, 1), clock=lambda: 0.0)
    assert [status_of(access, bearer(usual)) for _ in range(2)] == [200, 429]
    assert [status_of(access, bearer(own)) for _ in range(4)] == [200, 200, 200, 429]


def test_a_wrong_key_or_scope_takes_nothing_from_a_clients_bucket(file: Path) -> None:
    key = keys.create(file, "acme", rate_per_s=1, burst=1)["key"]
    access = guard(file, clock=lambda: 0.0)
    assert status_of(access, bearer(key[:-1] + "~")) == 401
    assert status_of(access, bearer(key), "metrics") == 403
    assert status_of(access, bearer(key)) == 200


def test_a_changed_file_is_in_force_at_the_next_look_and_an_unchanged_one_is_not_read(file: Path) -> None:
    old = keys.create(file, "acme")
    access = guard(file)
    assert not access.reload()
    new = keys.create(file, "acme")
    assert (status_of(access, bearer(new["key"])), access.reload()) == (401, True)
    assert [status_of(access, bearer(each["key"])) for each in (old, new)] == [200, 200]
    keys.revoke(file, old["id"])
    assert access.reload()
    assert [status_of(access, bearer(each["key"])) for each in (old, new)] == [401, 200]
    assert samples(access)[("paceline_keys_active",)] == 1


def _cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def _in_its_place_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    "break_it", [_cut_off, Path.unlink, _in_its_place_a_folder, lambda file: file.write_bytes(b"")]
)
def test_a_broken_new_file_keeps_the_old_keys_and_is_logged_and_counted_once(
    file: Path, break_it: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys.create(file, "acme")["key"]
    whole = file.read_bytes()
    access = guard(file)
    break_it(file)
    told: list[str] = []  # at the logger itself: a library that configures logging may repeat what reaches the root
    monkeypatch.setattr("serving.access.credentials.logger.error", lambda text, *values: told.append(text % values))
    assert [access.reload(), access.reload()] == [False, False]
    assert status_of(access, bearer(key)) == 200
    assert [str(file) in message for message in told] == [True]
    assert samples(access)["paceline_key_reloads_total", "failed"] == 1
    if file.is_dir():
        file.rmdir()
    file.write_bytes(whole)
    assert access.reload()
    assert status_of(access, bearer(key)) == 200


def test_a_file_behind_a_link_that_turns_is_read_anew(tmp_path: Path) -> None:
    old, new = (keys.create(tmp_path / name / "keys.json", "acme")["key"] for name in ("one", "two"))
    (tmp_path / "current").symlink_to(tmp_path / "one")
    access = guard(tmp_path / "current" / "keys.json")
    (tmp_path / "next").symlink_to(tmp_path / "two")
    os.replace(tmp_path / "next", tmp_path / "current")
    assert access.reload()
    assert [status_of(access, bearer(key)) for key in (old, new)] == [401, 200]


def test_a_client_keeps_its_bucket_over_a_change_of_the_file(file: Path) -> None:
    key = keys.create(file, "acme", rate_per_s=1, burst=1)["key"]
    access = guard(file, clock=lambda: 0.0)
    assert status_of(access, bearer(key)) == 200
    keys.create(file, "other")
    assert access.reload()
    assert status_of(access, bearer(key)) == 429


def test_refusals_are_counted_by_their_reason_and_for_known_clients_only(file: Path) -> None:
    key = keys.create(file, "acme", rate_per_s=1, burst=1)
    access = guard(file, clock=lambda: 0.0)
    for headers, needed in ((bearer("no"), "predict"), (bearer(key["key"]), "metrics")):
        status_of(access, headers, needed)
    for _ in range(3):
        status_of(access, bearer(key["key"]))
    found = samples(access)
    refused = {name[1:]: value for name, value in found.items() if name[0] == "paceline_access_refused_total"}
    assert refused == {("credential", ""): 1, ("scope", "acme"): 1, ("rate", "acme"): 2}
    keys.revoke(file, key["id"])
    access.reload()
    assert {name[1:] for name in samples(access) if name[0] == "paceline_access_refused_total"} == {("credential", "")}


def _settings(tmp_path: Path, **more: Any) -> Settings:
    return Settings(project="flight_delay", state=tmp_path / "state", predictions=tmp_path / "predictions", **more)


def test_a_server_without_keys_is_for_loopback_only(tmp_path: Path, file: Path) -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        assert open_access(_settings(tmp_path, host=host)) is None
    for host in ("0.0.0.0", "::", "10.0.0.1", "paceline.example"):
        with pytest.raises(
            SettingsError, match=r"no API keys are configured.*paceline keys create.*PACELINE_SERVING_KEYS"
        ):
            ModelServer(_settings(tmp_path, host=host, control_token="secret-word"))
    keys.create(file, "acme")
    ModelServer(_settings(tmp_path, host="0.0.0.0", control_token="secret-word", keys=file))


def test_a_file_that_cannot_be_used_at_the_start_ends_the_start(tmp_path: Path, file: Path) -> None:
    with pytest.raises(SettingsError, match=r"PACELINE_SERVING_KEYS is .*No such file"):
        ModelServer(_settings(tmp_path, keys=file))
    file.write_text("{}}")
    with pytest.raises(SettingsError, match="cannot be used"):
        ModelServer(_settings(tmp_path, keys=file))


def test_credentials_of_any_kind_let_a_server_listen_for_others_and_an_empty_file_opens_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usual: dict[str, Any] = {"host": "0.0.0.0", "control_token": "secret-word"}
    for number, part in enumerate((issuer_part("keys.json"), hmac_part(), "")):
        rules = write_rules(tmp_path / f"{number}.toml", part)
        access = open_access(_settings(tmp_path, access=rules, **usual))
        assert access is not None
        for headers in ([], bearer("pk_" + "0" * 56), bearer("a.b.c"), [(b"signature-input", b"a=()")]):
            assert [status_of(access, headers, needed) for needed in ("predict", "metrics", "metadata")] == [401] * 3
    assert caplog.text.count("every request for a guarded route is refused") <= 1


def test_a_url_that_is_none_of_redis_ends_the_start_without_its_password(tmp_path: Path, file: Path) -> None:
    keys.create(file, "acme")
    with pytest.raises(SettingsError, match="REDIS_URL cannot be used") as refused:
        open_access(_settings(tmp_path, keys=file, redis_url="redis://:secret-word@x:port"))
    assert "secret-word" not in str(refused.value)
    assert open_access(_settings(tmp_path, keys=file, redis_url="redis://127.0.0.1:1/0")) is not None


def test_a_look_that_fails_for_an_unforeseen_reason_is_logged_and_not_the_last(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serving.access.guard.CHECK_EVERY_S", 0.01)
    old = keys.create(file, "acme")
    access = guard(file)
    real, looks = access.credentials.refresh, iter([RuntimeError("unforeseen")])

    async def refresh() -> None:
        for error in looks:
            raise error
        await real()

    async def run() -> None:
        monkeypatch.setattr(access.credentials, "refresh", refresh)
        task = asyncio.create_task(access.watch())
        keys.revoke(file, old["id"])
        async with asyncio.timeout(20):
            while status_of(access, bearer(old["key"])) != 401:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert "unforeseen" in caplog.text


def test_a_file_without_an_active_key_closes_the_server_and_says_so(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = keys.create(file, "acme")
    keys.revoke(file, made["id"])
    with caplog.at_level(logging.INFO):
        access = guard(file)
    assert status_of(access, bearer(made["key"])) == 401
    assert "every request for a guarded route is refused" in caplog.text
