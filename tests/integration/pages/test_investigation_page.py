"""The page of an investigation in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.tasks import investigating, releasing
from tests.fixtures.browsers import PageBrowser
from tests.fixtures.rollbacks import PROJECT, point_at, rolled_back, two_versions

FAILED, STOPPED = f"{PROJECT}-v2-failed", f"{PROJECT}-v2-stopped"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """One that the judge ended at 25 %, and one that a person did."""
    with pytest.MonkeyPatch.context() as patch:
        point_at(tmp_path_factory.mktemp("investigation-pages"), patch)
        _, challenger = two_versions()
        failing = {"1": 0.005, "2": 0.12}
        releasing.settle(PROJECT, rolled_back(challenger, failing, name=FAILED, bad_from_share=0.25))
        releasing.settle(PROJECT, rolled_back(challenger, {}, name=STOPPED, stop_after_s=12))
        yield {name: investigating.investigation_folder(PROJECT, name) / "index.html" for name in (FAILED, STOPPED)}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("name", "drawings"), [(FAILED, 8), (STOPPED, 1)])
def test_the_page_opens_without_a_complaint_and_fits(
    browser: PageBrowser, pages: dict[str, Path], name: str, drawings: int, dark: bool
) -> None:
    seen = browser.look(pages[name].as_uri(), dark=dark)
    assert seen.complaints == []
    assert (seen.wide, seen.beyond, seen.cut, seen.scrolled) == (0, [], [], [])
    assert len(seen.drawings) >= drawings
    assert [
        each for each in seen.drawings if min(each.width, each.height) < 60 or not each.shown or not each.name
    ] == []
