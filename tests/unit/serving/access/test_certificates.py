import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from pipelines.tasks import keys
from serving.access import Access, AccessRefusedError, ClientCertificate, RequestHead, open_access
from serving.access.certificates import certificate_of
from serving.access.tls import server_context, uvicorn_tls
from serving.settings import Settings, SettingsError
from tests.fixtures.access import Authority, certificate_part, write_rules

SPIFFE = "URI:spiffe://example/ns/ml/sa/acme"


def certificate(*names: str, not_after_s: float = 4e9) -> ClientCertificate:
    return ClientCertificate(names, bytes(32), not_after_s)


@pytest.fixture
def access(tmp_path: Path) -> Access:
    rules = write_rules(
        tmp_path / "access.toml",
        certificate_part(SPIFFE, "acme", scopes=["predict", "metadata"]),
        certificate_part("CN:prober", "prober", scopes=["metrics"]),
        certificate_part("DNS:batch.example", "batch", rate_per_s=1, burst=1),
        certificate_part("CN:elsewhere", "elsewhere", projects=["credit_risk"]),
    )
    return Access(None, project="flight_delay", rules=rules, clock=lambda: 0.0, wall_clock=lambda: 1000.0)


def status_of(access: Access, shown: ClientCertificate | None, needed: Any = "predict", **headers: str) -> int:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    try:
        access.admit(RequestHead("GET", "/", b"", fields, "https", shown), needed)
    except AccessRefusedError as refused:
        return refused.status
    return 200


def test_a_certificate_opens_what_the_file_says_of_its_name(access: Access) -> None:
    found = access.admit(RequestHead("GET", "/", b"", [], "https", certificate(SPIFFE, "CN:x")), "predict")
    assert found == ("acme", SPIFFE, (), None)
    assert status_of(access, certificate(SPIFFE), "metrics") == 403
    assert status_of(access, certificate("CN:prober"), "metrics") == 200
    assert status_of(access, certificate("CN:elsewhere")) == 403
    assert [status_of(access, certificate("DNS:batch.example")) for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("shown", [None, certificate(), certificate("CN:acme", "DNS:prober"), certificate("acme")])
def test_without_a_certificate_of_a_known_name_nothing_is_open(access: Access, shown: ClientCertificate | None) -> None:
    assert status_of(access, shown) == 401


def test_a_certificate_that_runs_out_on_an_open_connection_opens_nothing_more(access: Access) -> None:
    assert status_of(access, certificate(SPIFFE, not_after_s=1001)) == 200
    assert status_of(access, certificate(SPIFFE, not_after_s=1000)) == 401


def test_a_wrong_key_is_refused_also_behind_a_good_certificate_and_a_good_one_counts_first(tmp_path: Path) -> None:
    key = keys.create(tmp_path / "keys.json", "by-key")["key"]
    rules = write_rules(tmp_path / "access.toml", certificate_part(SPIFFE, "acme"))
    access = Access(tmp_path / "keys.json", project="flight_delay", rules=rules)
    assert status_of(access, certificate(SPIFFE), x_api_key="pk_wrong") == 401
    found = access.admit(
        RequestHead("GET", "/", b"", [(b"x-api-key", key.encode())], "https", certificate(SPIFFE)), "predict"
    )
    assert found.client == "by-key"


async def shake_hands(context: ssl.SSLContext, client: ssl.SSLContext) -> ClientCertificate | None:
    """What the server sees of the client after a real handshake on loopback."""
    seen: asyncio.Future[ClientCertificate | None] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(certificate_of(writer.transport))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
        await reader.read()
        writer.close()
        if not seen.done():
            raise ConnectionError("the server has ended the handshake")
        return seen.result()


def _settings(tmp_path: Path, authority: Authority, **more: Any) -> Settings:
    certificate, key = authority.certify_loopback()
    return Settings(project="p", state=tmp_path, predictions=tmp_path, tls_certificate=certificate, tls_key=key, **more)


@pytest.fixture
def contexts(tmp_path: Path) -> Callable[..., tuple[ssl.SSLContext, ssl.SSLContext]]:
    """The server's context by its settings, and that of a client who trusts it."""

    def made(**more: Any) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        authority = Authority(tmp_path)
        if more.pop("client", True):
            more["tls_client_ca"] = authority.path
        server = server_context(_settings(tmp_path, authority, **more))
        assert server is not None
        client = ssl.create_default_context(cafile=str(authority.path))
        client.load_cert_chain(
            *authority.certify(
                "acme",
                x509.DNSName("batch.example"),
                x509.UniformResourceIdentifier("spiffe://example/ns/ml/sa/acme"),
                x509.RFC822Name("acme@example.org"),
            )
        )
        return server, client

    return made


def test_the_names_of_a_verified_certificate_are_read_the_most_exact_first(contexts: Any) -> None:
    found = asyncio.run(shake_hands(*contexts()))
    assert found is not None
    assert found.names == (SPIFFE, "DNS:batch.example", "email:acme@example.org", "CN:acme")
    assert len(found.thumbprint) == 32
    assert found.not_after_s > 1e9


def test_without_an_authority_for_clients_a_certificate_is_none(contexts: Any) -> None:
    assert asyncio.run(shake_hands(*contexts(client=False))) is None


def test_a_certificate_of_a_stranger_ends_the_handshake_and_none_is_allowed_unless_required(
    contexts: Any, tmp_path: Path
) -> None:
    server, client = contexts()
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "stranger")
    client.load_cert_chain(*stranger.certify("acme"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        asyncio.run(shake_hands(server, client))
    bare = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    assert asyncio.run(shake_hands(server, bare)) is None
    server, _ = contexts(tls_client_required=True)
    bare = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        asyncio.run(shake_hands(server, bare))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_client_that_speaks_an_old_version_of_tls_is_refused(contexts: Any) -> None:
    server, client = contexts()
    assert server.minimum_version == ssl.TLSVersion.TLSv1_2
    client.minimum_version, client.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        asyncio.run(shake_hands(server, client))


def test_uvicorn_takes_the_context_and_none_without_a_certificate(tmp_path: Path) -> None:
    import uvicorn

    options = uvicorn_tls(_settings(tmp_path, Authority(tmp_path)))
    config = uvicorn.Config(lambda: None, log_config=None, **options)
    config.load()
    assert config.ssl is not None
    assert config.ssl.minimum_version == ssl.TLSVersion.TLSv1_2
    assert uvicorn_tls(Settings(project="p", state=tmp_path, predictions=tmp_path)) == {}


def test_files_that_cannot_be_used_end_the_start_with_their_names(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.certify("one")
    _, other_key = authority.certify("two")
    usual: dict[str, Any] = {"project": "p", "state": tmp_path, "predictions": tmp_path}
    for found in (other_key, tmp_path / "missing.key", certificate):
        with pytest.raises(SettingsError, match=r"TLS_CERTIFICATE .*TLS_KEY .*expected PEM files"):
            server_context(Settings(**usual, tls_certificate=certificate, tls_key=found))
    for found in (tmp_path / "missing.pem", key):
        with pytest.raises(SettingsError, match=r"TLS_CLIENT_CA is .*expected a PEM file"):
            server_context(Settings(**usual, tls_certificate=certificate, tls_key=key, tls_client_ca=found))


def test_clients_with_certificates_need_an_authority_that_vouches_for_them(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    rules = write_rules(tmp_path / "access.toml", certificate_part(SPIFFE, "acme"))
    usual: dict[str, Any] = {"access": rules, "host": "0.0.0.0", "control_token": "secret-word"}
    with pytest.raises(SettingsError, match=r"has certificates, which nobody can show without .*TLS_CLIENT_CA"):
        open_access(_settings(tmp_path, authority, **usual))
    assert open_access(_settings(tmp_path, authority, **usual, tls_client_ca=authority.path)) is not None
