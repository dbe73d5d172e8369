import re

import pytest

from pipelines.pages.plots import Axis, Bar, Series, bars, chart, number_text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.00123, "0.00123"), (0.5, "0.5"), (12.345, "12.3"), (100, "100"), (1234567.0, "1,234,567")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_larger_values_are_higher_and_all_are_inside(scale: str) -> None:
    made = chart("c", Axis("x"), Axis("y", scale), [Series("s", [(0, 1.0), (1, 10.0), (2, 100.0)], "t1")])  # type: ignore[arg-type]
    ys = [float(y) for y in re.findall(r'cy="([\d.]+)"', made)]
    assert ys == sorted(ys, reverse=True)
    assert min(ys) >= 0
    assert max(ys) <= 270


def test_nines_have_equal_distances() -> None:
    points = [(90.0, 1.0), (99.0, 2.0), (99.9, 3.0)]
    made = chart("c", Axis("x", "nines"), Axis("y"), [Series("s", points, "t1")])
    first, second, third = (float(x) for x in re.findall(r'cx="([\d.]+)"', made))
    assert second - first == pytest.approx(third - second, abs=0.2)


def test_a_point_without_a_value_breaks_the_line() -> None:
    made = chart("c", Axis("x"), Axis("y"), [Series("s", [(0, 1.0), (1, 2.0), (2, None), (3, 3.0), (4, 1.0)], "t1")])
    assert len(re.findall(r'class="line t1"', made)) == 2


def test_texts_are_escaped() -> None:
    made = chart("<i>", Axis("<x>"), Axis("<y>"), [Series("<s>", [(0, 1.0)], "t1")], [(1.0, "<mark>")])
    made += bars("<b>", "<u>", [Bar("<n>", 1.0, "t1", "<t>"), Bar("none", None, "t1", "<not>")])
    assert not re.search(r"<(i|x|y|s|mark|n|t|not|u)>", made)


def test_a_chart_without_points_is_refused() -> None:
    with pytest.raises(ValueError, match="'empty' has no points"):
        chart("empty", Axis("x"), Axis("y"), [Series("s", [(0, None)], "t1")])
