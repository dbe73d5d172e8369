"""The model server at a URL, by its control routes."""

from collections.abc import Set
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from contracts.flags import FlagsInForce, SetFlags
from contracts.problem import Problem
from contracts.slots import HardLimits, LoadSlot, Observation, PromoteSlot, RenewLease, SetShare
from pipelines.rollout.features import CHALLENGERS, FEATURES
from pipelines.rollout.platforms.port import PlatformUnreachableError, SlotRefusedError

TIMEOUT_S = 5.0
SUPPORTED = FEATURES | {CHALLENGERS} | {f"hard_limits.{name}" for name in HardLimits.__struct_fields__}
_Answer = TypeVar("_Answer", Observation, FlagsInForce)
LOAD_TIMEOUT_S = 150.0  # hashing the bundle and replaying its golden rows; the server gives up before


class LocalPlatform:
    """One model server; every server of a project is asked by itself.

    May be used as an asynchronous context manager, or closed with `aclose`.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        load_timeout_s: float = LOAD_TIMEOUT_S,
        rollout: str | None = None,
    ) -> None:
        """`token` is what the server's control routes ask for, if they do.

        `rollout` is whose challenger is observed where the server has several; None: the first one.
        """
        self._observed = None if rollout is None else {"rollout": rollout}
        self._url = url.rstrip("/")
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._timeout_s = timeout_s
        self._load_timeout_s = load_timeout_s
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections; the platform may be used again afterwards."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def supports(self) -> Set[str]:
        """All that a plan can ask of a server: `contracts.slots` is the server's own language."""
        return SUPPORTED

    async def load(self, message: LoadSlot) -> None:
        """Puts a bundle into the challenger's slot, verified and without a share."""
        await self._send("PUT", "/control/challenger", message, timeout_s=self._load_timeout_s)

    async def set_share(self, message: SetShare) -> None:
        """Gives the challenger a share, or its shadow, under a lease."""
        await self._send("PUT", "/control/share", message)

    async def renew_lease(self, message: RenewLease) -> None:
        """Keeps the share for another lease."""
        await self._send("PUT", "/control/lease", message)

    async def promote(self, message: PromoteSlot) -> None:
        """Makes the challenger the champion, if the champion is still the expected one."""
        await self._send("POST", "/control/promote", message)

    async def drop(self, rollout: str) -> None:
        """Empties the challenger's slot if `rollout` holds it."""
        await self._send("DELETE", "/control/challenger", parameters={"rollout": rollout})

    async def end_holdout(self, rollout: str) -> None:
        """Gives the champion all entities, if it was `rollout` that left some on the old one."""
        await self._send("DELETE", "/control/holdout", parameters={"rollout": rollout})

    async def observe(self) -> Observation:
        """Both slots at this instant."""
        answer = await self._send("GET", "/control/observation", parameters=self._observed)
        return self._read(answer, Observation)

    async def flags(self) -> FlagsInForce:
        """The feature flags that the server goes by."""
        return self._read(await self._send("GET", "/control/flags"), FlagsInForce)

    async def set_flags(self, message: SetFlags) -> FlagsInForce:
        """Puts other feature flags in force, without restart; what is in force then."""
        return self._read(await self._send("PUT", "/control/flags", message), FlagsInForce)

    def _read(self, answer: httpx.Response, kind: type[_Answer]) -> _Answer:
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.DecodeError as error:
            raise PlatformUnreachableError(
                f"{self._url} answered with no {kind.__name__} ({error}): is this the model server, of our version?"
            ) from error

    async def _send(
        self,
        method: str,
        path: str,
        message: msgspec.Struct | None = None,
        *,
        parameters: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> httpx.Response:
        if self._client is None:
            # a proxy of the environment is for the way out, not to the model servers
            self._client = httpx.AsyncClient(base_url=self._url, headers=self._headers, trust_env=False)
        options: dict[str, Any] = {}
        if message is not None:
            options = {"content": msgspec.json.encode(message), "headers": {"content-type": "application/json"}}
        try:
            answer = await self._client.request(
                method, path, params=parameters, timeout=timeout_s or self._timeout_s, **options
            )
        except httpx.TransportError as error:
            raise PlatformUnreachableError(
                f"{method} {self._url}{path}: {type(error).__name__} {error}".rstrip()
            ) from error
        if answer.is_server_error:
            raise PlatformUnreachableError(f"{method} {self._url}{path}: {answer.status_code} {_detail(answer)}")
        if not answer.is_success:
            raise SlotRefusedError(answer.status_code, _detail(answer))
        return answer


def _detail(answer: httpx.Response) -> str:
    try:
        return msgspec.json.decode(answer.content, type=Problem).detail
    except msgspec.DecodeError:
        return answer.text[:500] or answer.reason_phrase
