import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from contracts.hashing import bytes_id, canonical_json, content_id, file_id

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=6), values, max_size=6))
def test_the_order_of_keys_does_not_change_an_id(value: dict[str, object]) -> None:
    assert content_id(dict(reversed(value.items()))) == content_id(value)


@given(values, values)
def test_values_have_the_same_id_only_if_their_json_is_the_same(first: object, second: object) -> None:
    assert (content_id(first) == content_id(second)) == (canonical_json(first) == canonical_json(second))


@given(st.binary(max_size=4096), st.integers(0, 4095), st.integers(1, 255))
def test_a_changed_byte_changes_the_id(content: bytes, place: int, change: int) -> None:
    if place < len(content):
        altered = bytearray(content)
        altered[place] ^= change
        assert bytes_id(bytes(altered)) != bytes_id(content)


@given(st.binary(max_size=4096))
def test_a_file_has_the_id_of_its_content(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content"
        path.write_bytes(content)
        assert file_id(path) == bytes_id(content)
