"""A fault that is planted on purpose: what it is, when it would happen, and how it is planted."""

import pkgutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple
from unittest import mock

import pyarrow as pa

Stage = Literal["data", "leak", "labels", "features", "training", "export", "quantisation", "evaluation"]
Change = Callable[[pa.Table], pa.Table]


class Fault(NamedTuple):
    """`plant` holds the fault while the block runs; `trainer` is whose model it needs.

    `forms` are the forms of the graph that it breaks: they must be refused, and then another one may serve.
    """

    name: str
    stage: Stage
    what: str
    plant: Callable[[], Any]
    trainer: str = "boosted_trees"
    forms: tuple[str, ...] = ()


class Planted:
    """What the project's source applies to its events; None leaves them as they are."""

    change: Change | None = None


@contextmanager
def changed_events(change: Change) -> Iterator[None]:
    """The source gives its events with `change` applied."""
    Planted.change = change
    try:
        yield
    finally:
        Planted.change = None


def in_events(change: Change) -> Callable[[], Any]:
    """A fault of the data."""
    return lambda: changed_events(change)


def around(target: str, wrap: Callable[[Any], Any]) -> Callable[[], Any]:
    """Replaces the function `target` (with its module, and its class if it has one) by what `wrap` makes of it."""

    @contextmanager
    def planted() -> Iterator[None]:
        with mock.patch(target, wrap(pkgutil.resolve_name(target))):
            yield

    return planted


def together(*plants: Callable[[], Any]) -> Callable[[], Any]:
    """Several at once."""

    @contextmanager
    def planted() -> Iterator[None]:
        with ExitStack() as stack:
            for plant in plants:
                stack.enter_context(plant())
            yield

    return planted
