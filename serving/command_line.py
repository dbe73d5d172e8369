"""The command line of `python -m serving`: the number of workers, and a help text that explains every setting."""

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from serving.settings import PREFIX

# what each setting is for; a test compares the names with those that there are
EXPLAINED: Mapping[str, str] = {
    "PROJECT": "the project that is served; needed",
    "STATE": "the folder that remembers the champion; needed",
    "PREDICTIONS": "the root folder of the prediction log; needed",
    "HOST": "the address to listen on; 127.0.0.1 by default",
    "PORT": "the port to listen on, 0 for any free one; 8500 by default",
    "WORKERS": "how many processes share the port, as --workers; 1 by default",
    "CONTROL_TOKEN": "the bearer token of the control routes; needed when others can reach the server",
    "ALLOW_FAULTS": "yes opens POST /control/fault, for demonstrations and tests",
    "KEYS": "the file of API keys that `paceline keys` writes; without it or ACCESS on loopback only",
    "ACCESS": "the file of token issuers, client certificates and signing keys",
    "RATE_PER_S": "requests a second of a client that has no limit of its own",
    "BURST": "how many of them at once; one second's by default",
    "REDIS_URL": "where replicas and workers share what is left of the limits; else each worker has its part of them",
    "TLS_CERTIFICATE": "the server's certificate with its chain, a PEM file",
    "TLS_KEY": "its private key, a PEM file",
    "TLS_CLIENT_CA": "the authorities that vouch for clients' certificates, a PEM file",
    "TLS_CLIENT_REQUIRED": "yes asks every client for a certificate",
    "TIMEOUT_MS": "how long a request is worked on at most; 10000 by default",
    "BATCH_WAIT_MS": "how long a first row waits for others to share its graph run; 0 by default",
    "CACHE_MS": "how long a score is given again for the same row; 0, never, by default",
    "CACHE_ROWS": "how many rows are kept for that; 10000 by default",
    "PROVIDERS": "on what graphs run here, by preference: cpu, cuda, tensorrt, or a JSON list with options",
    "REQUIRE_PROVIDER": "the one that must be in use, or none to lift a bundle's requirement",
    "LOG_POLICY": "drop rows or fail the answer when the disk does not take the log; drop by default",
    "FEATURES_SHARE": "of how many requests the encoded rows are logged too, for `paceline skew`; 0.05 by default",
    "BUNDLE": "the folder of the bundle that leads until another is promoted; none by default",
    "VERSION": "what that bundle is called; the start of its id by default",
    "TRUSTED_KEYS": "public keys (PEM) of which one must have signed a bundle; none is asked for by default",
    "AUTHENTICATED_IN_FRONT": "yes lets others reach a server without KEYS or ACCESS, for what stands in front asks",
    "MASK_KEY": "the key of the hash that stands for personal values in the log; one is made in STATE by default",
}
_NAME_WIDTH, _TEXT_WIDTH = 40, 78


def environment_of(arguments: Sequence[str], environment: Mapping[str, str]) -> Mapping[str, str]:
    """`environment` with what the command line says; ends the process for `--help`, `--version` and mistakes."""
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description="The model server: answers predictions on one port until SIGTERM or SIGINT.",
        epilog=_settings_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"paceline {version('paceline')}")
    parser.add_argument("--workers", metavar="N", help=f"processes that share the port; as {PREFIX}WORKERS")
    found = parser.parse_args(arguments)
    return environment if found.workers is None else {**environment, f"{PREFIX}WORKERS": found.workers}


def _settings_text() -> str:
    lines = ["Everything else is set by environment variables:", ""]
    for name, text in EXPLAINED.items():
        first, *more = textwrap.wrap(text, _TEXT_WIDTH - _NAME_WIDTH + 20)
        lines.append(f"  {PREFIX + name:<{_NAME_WIDTH}}{first}")
        lines.extend(" " * (_NAME_WIDTH + 2) + line for line in more)
    lines += ["", "Once it runs, the server explains its routes at /docs."]
    return "\n".join(lines)
