"""TLS of the server itself: its certificate, and the authority that vouches for clients' ones."""

import ssl
from typing import Any

from serving.settings import PREFIX, Settings, SettingsError


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """What connections are made with, TLS 1.2 at least; None where the settings name no certificate.

    Raises:
        SettingsError: a file cannot be used.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{PREFIX}TLS_CERTIFICATE {settings.tls_certificate} and {PREFIX}TLS_KEY {settings.tls_key} cannot be used "
            f"({_reason(error)}): expected PEM files, the certificate with its chain, and its private key without a "
            "password"
        ) from error
    if settings.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED if settings.tls_client_required else ssl.CERT_OPTIONAL
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except OSError as error:
            raise SettingsError(
                f"{PREFIX}TLS_CLIENT_CA is {settings.tls_client_ca}, which cannot be used ({_reason(error)}): expected "
                "a PEM file with the certificates of the authorities that vouch for clients"
            ) from error
    return context


def uvicorn_tls(settings: Settings) -> dict[str, Any]:
    """The arguments of `uvicorn.Config` for TLS; none where the settings name no certificate.

    Raises:
        SettingsError: a file cannot be used.
    """
    context = server_context(settings)
    if context is None:
        return {}
    return {"ssl_context_factory": lambda config, default: context}


def _no_password() -> str:
    raise ValueError("the private key has a password")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
