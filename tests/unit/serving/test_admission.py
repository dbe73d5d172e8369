import pytest

from serving.admission import client_request_id


@pytest.mark.parametrize(
    ("value", "taken"), [(b"mine-1", "mine-1"), (b"", None), (b"x" * 129, None), (b"a\tb", None), (b"\xe9", None)]
)
def test_only_a_request_id_that_is_fit_to_be_logged_is_taken(value: bytes, taken: str | None) -> None:
    assert client_request_id({"headers": [(b"host", b"x"), (b"x-request-id", value)]}) == taken
