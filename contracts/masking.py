"""Masks of personal values: what the model server logs in their place, and monitoring looks them up by."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

MASK_PREFIX = "masked:"
MASK_KEY_FILE = "mask.key"  # in the model server's state, where its settings name no key


class Mask:
    """Stands a keyed hash in for personal values: equal values stay equal, and nobody without the key can try them."""

    def __init__(self, key: bytes) -> None:
        self._key = blake2b(key, digest_size=32).digest()

    def value(self, value: Any) -> str:
        """The mask of `value`."""
        content = str(value).encode(errors="backslashreplace")
        return MASK_PREFIX + blake2b(content, digest_size=16, key=self._key).hexdigest()

    def record(self, record: Mapping[str, Any], personal: Sequence[str]) -> Mapping[str, Any]:
        """`record` with its `personal` fields masked; missing values stay missing."""
        if not personal:
            return record
        masked = dict(record)
        for name in personal:
            if masked.get(name) is not None:
                masked[name] = self.value(masked[name])
        return masked
