"""One shape of error for every HTTP route: `application/problem+json` (RFC 9457)."""

import msgspec

from contracts.encoder import FieldProblem

CONTENT_TYPE = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`title` is the same for all problems of a `type`; `detail` says what was found here, and what to do."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    errors: tuple[FieldProblem, ...] = ()
