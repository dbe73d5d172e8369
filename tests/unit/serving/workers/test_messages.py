import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.workers.messages import (
    MAXIMUM_MESSAGE_BYTES,
    Ask,
    Frames,
    Loaded,
    Opened,
    Refusal,
    decode_from_worker,
    framed,
)

SAID = [
    Ask(ask=1, command="observe", message=b"\xc0"),
    Opened(),
    Loaded(round=7, refusal=Refusal(kind="model", text="ä" * 300)),
]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=50))
def test_messages_come_out_as_they_went_in_however_they_are_cut(lengths: list[int]) -> None:
    stream = b"".join(framed(message) for message in SAID) * 3
    frames = Frames()
    found = []
    while stream:
        for length in lengths:
            found += frames.feed(stream[:length])
            stream = stream[length:]
    assert [decode_from_worker(body) for body in found] == SAID * 3


def test_a_length_that_no_message_has_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most"):
        Frames().feed((MAXIMUM_MESSAGE_BYTES + 1).to_bytes(4, "big"))
