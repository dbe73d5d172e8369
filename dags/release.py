"""`<project>.release`: a registered challenger → shadow → canary steps → promotion, or back to the champion by itself.

It starts when a challenger is registered. The long part is deferred: the triggerer runs the controller, and no worker
waits. When the controller dies, the lease of the challenger's share runs out and the champion has all traffic. Where
the project's plan asks people, they find its questions under Required Actions, while the rollout goes on to be judged.

A project has one rollout at a time. A version that comes while another one is rolled out waits, ends that one, or is
refused (`when_busy` in the project's plan); when the rollout has ended, `release_next` starts the run of who waits.
Started with `versions`, several challengers are rolled out beside each other, and at most one of them leads in the end.
"""

import logging
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Asset, Param, get_current_context, task
from delivery.approvals import REASON, AskPerson, WaitForQuestion
from delivery.notifying import tell_people
from delivery.rollout import RolloutOperator
from delivery.settings import MANY_RETRIES, NO_RETRY, options

from pipelines.projects import Project
from pipelines.views import plan_of, projects

logger = logging.getLogger(__name__)


@task
def open_rollout(project: str) -> dict[str, Any]:
    from airflow.sdk.exceptions import AirflowSkipException

    from pipelines.tasks import releasing

    context = get_current_context()
    run = context["dag_run"]
    by = getattr(run, "triggering_user_name", None) or str(run.run_type)
    events = [event for found in context["triggering_asset_events"].values() for event in found]
    version = context["params"]["version"] or (events[-1].extra["version"] if events else None)
    versions, note = context["params"]["versions"], context["params"]["note"]
    if versions:
        opened = releasing.open_experiment(project, versions.split(","), note=note, by=by)
    else:
        opened = releasing.open_rollout(project, version, note=note, by=by)
    if opened.offer is None:
        raise AirflowSkipException(opened.reason)
    if opened.waits:
        logger.warning(
            "%s; this run carries that one to its end, and then starts the release that waits", opened.reason
        )
    return opened.offer


@task(**MANY_RETRIES)
def settle(project: str, outcome: dict[str, Any]) -> dict[str, Any]:
    from pipelines.tasks import releasing

    return releasing.settle(project, outcome)


@task
def tell(project: str) -> dict[str, list[str]]:
    """Of this rollback, and of any that somebody was not told of yet."""
    return tell_people(project)


@task(**NO_RETRY)
def is_promoted(settled: dict[str, Any]) -> None:
    """The end of the run: it fails with the challenger."""
    from airflow.sdk.exceptions import AirflowFailException

    if settled["state"] != "promoted":
        raise AirflowFailException(f"Version {settled['version']} was {settled['state']}: {settled['reason']}")


@task(trigger_rule="all_done")
def whose_turn(project: str) -> dict[str, Any]:
    """Who waited until this rollout had ended, however it did."""
    from airflow.sdk.exceptions import AirflowSkipException

    from pipelines.tasks import releasing

    following = releasing.next_offer(project)
    if following is None:
        raise AirflowSkipException(f"No version of {project} waits for its rollout.")
    return following


@task
def answer(project: str, question: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    from pipelines.tasks import approving

    return approving.answer(project, question, **said)


def start_next(project: Project, settled: Any) -> None:
    """Behind the rollout, however it ended: the run of the version that has waited for that."""
    following = whose_turn(project.name)
    settled >> following
    TriggerDagRunOperator(
        task_id="release_next",
        trigger_dag_id=f"{project.name}.release",
        conf=following,
        wait_for_completion=False,
    )


def ask_people(project: Project, offer: Any) -> None:
    """Beside the rollout, for each question of its plan: wait for it, ask, and write what the person said."""
    approvals = plan_of(project).approvals
    asked = {"first_step": approvals.before_first_step, "full": approvals.before_full}
    for name in (name for name, is_asked in asked.items() if is_asked):
        question = WaitForQuestion(task_id=f"wait_for_{name}", project=project.name, offer=offer, question=name)
        person = AskPerson(
            task_id=f"approve_{name}",
            project=project.name,
            question=question.output,
            timeout_s=approvals.timeout_s,
            on_timeout=approvals.on_timeout,
            params=REASON,
        )
        answer.override(task_id=f"answer_{name}")(project.name, question.output, person.output)


def release(project: Project) -> DAG:
    challenger = Asset(name=f"{project.name}.challenger", uri=f"paceline://{project.name}/challenger")
    with DAG(
        **options(project, "release", f"Rolls a challenger of {project.title} out, and back when it is worse"),
        doc_md=__doc__,
        schedule=[challenger],
        dagrun_timeout=timedelta(days=7),
        params={
            "version": Param(
                None,
                type=["null", "string"],
                pattern="^[0-9]+$",
                title="Version",
                description="The registry version to offer; empty: the one that was registered last.",
            ),
            "versions": Param(
                None,
                type=["null", "string"],
                pattern="^[0-9]+(,[0-9]+){1,7}$",
                title="Versions",
                description="Several at once, as 7,8,9, each with a part of the traffic: at most one leads in the end.",
            ),
            "note": Param(
                None,
                type=["null", "string"],
                maxLength=1000,
                title="Note",
                description="Needed to offer a version again that was rolled back: what was found, and what changed.",
            ),
        },
    ) as dag:
        offer = open_rollout(project.name)
        outcome = RolloutOperator(task_id="roll_out", project=project.name, offer=offer, **MANY_RETRIES)
        settled = settle(project.name, outcome.output)
        settled >> tell(project.name)
        is_promoted(settled)
        start_next(project, settled)
        ask_people(project, offer)
    return dag


for _project in projects().values():
    globals()[f"{_project.name}_release"] = release(_project)
