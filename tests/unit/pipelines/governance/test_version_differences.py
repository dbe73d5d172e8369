from typing import Any

import msgspec

from pipelines.governance.version_differences import Described, differences


def described(version: str, **manifest: Any) -> Described:
    field = {"name": "carrier", "kind": "category", "required": True, "vocabulary": ["AA", "UA"]}
    return Described(
        version=version,
        manifest={"trainer": "boosted_trees", "optimization": "fp32", "parameters": {"trees": 40}, **manifest},
        schema={"version": 1, "fields": [field]},
        snapshot={"windows": {"train": {"start": "2013-01-01", "end": "2013-04-01"}}, "rows_by_part": {"train": 900}},
        tags={"as_of": "2013-04-15", "commit": "a" * 40},
        metrics={"auc": 0.69},
    )


def test_equal_versions_differ_in_nothing() -> None:
    assert differences(described("2"), described("1")) == ()


def test_without_a_champion_there_is_nothing_to_compare_with() -> None:
    assert differences(described("2"), None) == ()


def test_every_kind_of_difference_is_named_once_with_both_sides() -> None:
    challenger = msgspec.structs.replace(
        described("2", optimization="int8", parameters={"trees": 80, "depth": 3}),
        schema={
            "version": 2,
            "fields": [
                {"name": "carrier", "kind": "category", "required": False, "vocabulary": ["AA", "WN"]},
                {"name": "seats", "kind": "number", "minimum": 1.0},
            ],
        },
        snapshot={"windows": {"train": {"start": "2013-01-08", "end": "2013-04-08"}}, "rows_by_part": {"train": 901}},
        tags={"as_of": "2013-04-22", "commit": "b" * 40},
        metrics={"auc": 0.7},
    )
    found = {
        (each.area, each.name): (each.challenger, each.champion) for each in differences(challenger, described("1"))
    }
    assert found == {
        ("Model", "form"): ("int8", "fp32"),
        ("Parameters", "trees"): ("80", "40"),
        ("Parameters", "depth"): ("3", "–"),
        ("Inputs", "schema version"): ("2", "1"),
        ("Inputs", "carrier"): ("kind category", "kind category, required True"),
        ("Inputs", "carrier: words that only it knows"): ("WN", "UA"),
        ("Inputs", "seats"): ("kind number, minimum 1", "–"),
        ("Data", "as of"): ("2013-04-22", "2013-04-15"),
        ("Data", "train window"): ("2013-01-08 up to 2013-04-08", "2013-01-01 up to 2013-04-01"),
        ("Data", "train rows"): ("901", "900"),
        ("Metrics on its own test rows", "auc"): ("0.7000", "0.6900"),
        ("Code", "commit"): ("b" * 12, "a" * 12),
    }


def test_words_beyond_those_that_are_shown_still_count() -> None:
    many = [f"W{number:02d}" for number in range(30)]
    one, other = (
        msgspec.structs.replace(
            described(version), schema={"fields": [{"name": "carrier", "kind": "category", "vocabulary": words}]}
        )
        for version, words in (("2", many), ("1", ["AA"]))
    )
    (found,) = differences(one, other)
    assert found.challenger.endswith("and 22 more")
    assert found.champion == "AA"
