"""Why a rollout ended, as one of a few causes, and what a person does next; pure.

The cause is read from what ended the rollout (its last event, the server's trip, the findings above their limits), and
not from the sentence that says it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

Severity = Literal["page", "notice"]


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of ending.

    `title` is what a reader sees, `steps` are what to do next. A `notice` says nothing against the version: a person
    ended the rollout, or another one took its place. `blames` is what the failing part of the traffic is looked for by.
    """

    name: str
    title: str
    steps: tuple[str, ...]
    severity: Severity = "page"
    blames: Literal["errors", "latency", "scores"] = "errors"


_FAILURES = (
    "Read the kinds of error, then the first failed requests: ask the version again for one of them.",
    "Look at the slices: failures on one of them alone point at its data, failures on all at the graph or its host.",
)
_CAUSES = (
    Cause(name="errors", title="It failed for more entities than the champion", steps=_FAILURES),
    Cause(name="hard_limit", title="The server's hard limit was reached", steps=_FAILURES),
    Cause(
        name="latency",
        title="It answered slower than the champion",
        blames="latency",
        steps=(
            "Compare the forms of the graph and what they run on; `paceline bench serve` measures one at a time.",
            "Look whether it was slow from the start or grew slower: the latter points at memory or a queue.",
        ),
    ),
    Cause(
        name="scores",
        title="Its scores are distributed otherwise",
        blames="scores",
        steps=(
            "Look at the slices: a shift on all of them points at calibration or the label, on one at its data.",
            "Compare windows and features of both versions; a shift that is wanted needs a wider margin in the plan.",
        ),
    ),
    Cause(
        name="flips",
        title="Too many decisions turned over in the shadow",
        blames="scores",
        steps=(
            "Compare both versions' scores near the threshold; a shift that is wanted needs a wider limit in the plan.",
        ),
    ),
    Cause(
        name="split",
        title="Entities were not divided as configured",
        steps=(
            "No count can be believed, for or against the version: find who routes or retries requests.",
            "Offer it again when the split fits.",
        ),
    ),
    Cause(
        name="quality",
        title="Outcomes showed that it predicts worse",
        blames="scores",
        steps=("Compare both versions on the matured rows: `paceline watch` has quality by day and by slice.",),
    ),
    Cause(
        name="traffic",
        title="There was too little traffic to judge by",
        severity="notice",
        steps=("Offer it again when there is traffic, or ask for fewer requests in the plan.",),
    ),
    Cause(
        name="lease",
        title="Nobody renewed the lease",
        steps=(
            "The version is not to blame: find why the triggerer (or `paceline release`) stopped.",
            "Offer it again when that is solved.",
        ),
    ),
    Cause(
        name="share_refused",
        title="The server refused the share",
        steps=("Read the server's reason above, and its log; the version may be sound.",),
    ),
    Cause(
        name="load_refused",
        title="The server refused to load it",
        steps=(
            "Read the server's reason above: a damaged bundle, golden rows that differ, or a device that is missing.",
        ),
    ),
    Cause(
        name="promotion_refused",
        title="The promotion was refused",
        steps=(
            "Somebody changed the champion meanwhile, or the server refused: `paceline status` says who leads now.",
        ),
    ),
    Cause(
        name="unreachable",
        title="The server was silent",
        steps=("The version is not to blame before the server's log says so: was it killed for memory, or restarted?",),
    ),
    Cause(
        name="lost",
        title="What the server counts is not of this rollout any more",
        steps=("Find who restarted the server or dropped the challenger; its log has both. Then offer it again.",),
    ),
    Cause(
        name="by_hand",
        title="A person put another version back",
        steps=("Ask who rolled back what they saw; the rows of both versions around that moment are below.",),
    ),
    Cause(
        name="operator",
        title="A person rolled it back",
        steps=("Ask who rolled back what they saw; the numbers of that moment are below.",),
    ),
    Cause(
        name="aborted",
        title="A person ended the rollout",
        severity="notice",
        steps=("Nothing was found against the version; offer it again with a note when its time has come.",),
    ),
    Cause(
        name="unanswered",
        title="Nobody answered the question whether it goes on",
        severity="notice",
        steps=("Nothing was found against the version; offer it again when somebody is there to answer.",),
    ),
    Cause(
        name="paused",
        title="It was paused for too long",
        severity="notice",
        steps=("Nothing was found against the version; ask who paused it, and offer it again.",),
    ),
    Cause(
        name="superseded",
        title="Another rollout took its place",
        severity="notice",
        steps=("Nothing was found against the version.",),
    ),
    Cause(name="unknown", title="It was rolled back", steps=("Read the reason and the timeline.",)),
)
CAUSES: dict[str, Cause] = {cause.name: cause for cause in _CAUSES}
LIGHT = frozenset({"aborted", "superseded"})  # these are told without a search for what is wrong with the version
_BY_EVENT = {
    "LoadRefused": "load_refused",
    "ShareRefused": "share_refused",
    "PromotionRefused": "promotion_refused",
    "Unreachable": "unreachable",
    "Aborted": "aborted",
}
_SUPERSEDED = "superseded by "  # what the queue writes as the reason of its command
_OF_PAIRS = ("pairs higher", "pairs lower", "slices")  # scores of the same requests, in the shadow
_BY_COMMAND = {"abort": "aborted", "rollback": "operator", "reject": "operator"}


def cause_of(
    last_event: Mapping[str, Any],
    tripped: str | None,
    findings: Sequence[Mapping[str, Any]],
    *,
    is_asked: bool = False,
    is_paused: bool = False,
) -> Cause:
    """The cause of an ending: `last_event` as the ledger has it, `tripped` the server's own cause.

    `is_asked`: a person was asked, for longer than the plan bears; `is_paused`: somebody had paused it for as long.

    >>> cause_of({"type": "Looked"}, "hard_limit", []).name
    'hard_limit'
    """
    kind = str(last_event.get("type", ""))
    if kind == "Commanded":
        command = last_event.get("command") or {}
        if command.get("reason", "").startswith(_SUPERSEDED):
            return CAUSES["superseded"]
        return CAUSES[_BY_COMMAND.get(command.get("command", ""), "operator")]
    if kind in _BY_EVENT:
        return CAUSES[_BY_EVENT[kind]]
    if tripped is not None:
        return CAUSES[tripped if tripped in CAUSES else "unknown"]
    if exceeded := [each for each in findings if each["e_value"] > (each["limit"] or float("inf"))]:
        worst = max(exceeded, key=lambda each: each["e_value"] / each["limit"])
        return CAUSES[_by_finding("split" if exceeded[0]["name"] == "split" else worst["name"])]
    if is_paused or is_asked:
        return CAUSES["paused" if is_paused else "unanswered"]
    if kind == "Looked":  # a verdict has findings, a look that must not be judged has none
        return CAUSES["traffic" if findings else "lost"]
    return CAUSES["unknown"]


def _by_finding(name: str) -> str:
    if name in ("split", "flips"):
        return name
    if name.startswith("slow"):
        return "latency"
    if name.startswith("errors"):
        return "errors"
    return "scores" if "score" in name or name in _OF_PAIRS else "unknown"
