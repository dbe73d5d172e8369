"""What was signed and came in already, so that it does not come in twice. Pure but for its own state."""

from typing import NamedTuple


class Nonce(NamedTuple):
    """What is unique in each signed request of a key: `created_s` is signed too, so a replay has the same."""

    key_id: str
    created_s: int
    text: str


class NoncesFullError(Exception):
    """A key has signed more requests than are remembered; there is room again in `retry_after_s`."""

    def __init__(self, maximum: int, retry_after_s: int) -> None:
        super().__init__(
            f"the {maximum} signed requests that are remembered for a key have come in: sign fewer, or wait"
        )
        self.retry_after_s = retry_after_s


class NonceMemory:
    """The nonces of each key by the second of their creation: whole seconds leave when their signatures are too old.

    Bounded for each key, so that one client cannot take the room of another; what is full refuses and forgets nothing.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, dict[int, set[str]]] = {}
        self._counts: dict[str, int] = {}

    def has(self, nonce: Nonce) -> bool:
        """Whether it has come in."""
        return nonce.text in self._by_key.get(nonce.key_id, {}).get(nonce.created_s, ())

    def remember(self, nonce: Nonce, *, now_s: float, window_s: int, maximum: int) -> None:
        """Keeps it for as long as its signature is good: `window_s` from its creation.

        Raises:
            NoncesFullError: `maximum` nonces of this key are kept already.
        """
        seconds = self._by_key.setdefault(nonce.key_id, {})
        found = seconds.get(nonce.created_s)
        if found is None:
            # once a second for each key, so that there are never more seconds than a signature is good for
            for old in [each for each in seconds if each < now_s - window_s]:
                self._counts[nonce.key_id] -= len(seconds.pop(old))
            found = seconds[nonce.created_s] = set()
        count = self._counts.get(nonce.key_id, 0)
        if count >= maximum:
            raise NoncesFullError(maximum, max(1, int(min(seconds) + window_s - now_s) + 1))
        found.add(nonce.text)
        self._counts[nonce.key_id] = count + 1

    def keep_only(self, key_ids: set[str]) -> None:
        """Forgets what keys that are gone have signed."""
        for key_id in self._by_key.keys() - key_ids:
            del self._by_key[key_id]
            self._counts.pop(key_id, None)

    def __len__(self) -> int:
        return sum(self._counts.values())
