"""Coroutines without a task: they go on in the call that resolves what they wait for."""

import asyncio
import gc
import sys
import weakref

import pytest

from serving.suspension import Suspension, drive
from tests.fixtures.driven import as_future


def test_a_driven_coroutine_goes_on_in_the_call_that_resolves_its_wait() -> None:
    waiting: Suspension[int] = Suspension()
    results: list[int] = []

    async def doubled() -> int:
        return 2 * await waiting

    drive(doubled(), results.append, _unexpected)
    assert results == []
    waiting.resolve(21)
    assert results == [42]


def test_what_a_wait_fails_with_is_raised_where_the_coroutine_waits() -> None:
    waiting: Suspension[int] = Suspension()
    results: list[str] = []

    async def told() -> str:
        try:
            return str(await waiting)
        except ValueError as error:
            return f"caught {error}"

    drive(told(), results.append, _unexpected)
    waiting.fail(ValueError("it"))
    waiting.resolve(1)  # too late, and nothing changes
    assert results == ["caught it"]


def test_what_a_coroutine_raises_goes_to_the_second_callback() -> None:
    errors: list[Exception] = []

    async def broken() -> None:
        raise ValueError("broken")

    drive(broken(), lambda _: None, errors.append)
    assert [str(error) for error in errors] == ["broken"]


def test_a_wait_that_is_already_resolved_does_not_wait() -> None:
    waiting: Suspension[str] = Suspension()
    waiting.resolve("here")
    results: list[str] = []

    async def asks() -> str:
        return await waiting

    drive(asks(), results.append, _unexpected)
    assert results == ["here"]


def test_an_abandoned_coroutine_raises_where_it_waits_and_hears_no_answer_after_that() -> None:
    waiting: Suspension[int] = Suspension()
    errors: list[Exception] = []

    async def asks() -> int:
        return await waiting

    driven = drive(asks(), _unexpected, errors.append)
    driven.abandon(TimeoutError("nobody waits"))
    waiting.resolve(1)
    assert [str(error) for error in errors] == ["nobody waits"]


def test_a_coroutine_may_let_the_loop_take_its_turn_and_may_be_awaited_from_a_task() -> None:
    async def main() -> list[str]:
        order: list[str] = []

        async def long() -> str:
            order.append("first half")
            await asyncio.sleep(0)
            order.append("second half")
            return "done"

        future = as_future(long())
        asyncio.get_running_loop().call_soon(order.append, "others")
        order.append(await future)
        return order

    assert asyncio.run(main()) == ["first half", "second half", "others", "done"]


def test_an_awaited_future_raises_what_the_coroutine_raised() -> None:
    async def broken() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    async def main() -> None:
        await as_future(broken())

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(main())


def _unexpected(found: object) -> None:
    raise AssertionError(f"unexpected: {found!r}")


def test_what_a_finished_coroutine_held_goes_without_a_garbage_collection() -> None:
    class Body:
        """Can be referred to weakly."""

    waiting: Suspension[int] = Suspension()
    results: list[object] = []

    async def answer(body: Body) -> object:
        await waiting
        return weakref.ref(body)

    gc.disable()
    try:
        driven = drive(answer(Body()), results.append, _unexpected)
        waiting.resolve(7)
        assert results[0]() is None  # type: ignore[operator]
        assert sys.getrefcount(driven) == 2, "only this test holds it: its coroutine's wait does no more"
    finally:
        gc.enable()
