"""`<project>.watch`: live predictions → quality and drift of each version → a report → a retrain, when one is due.

A holdout is judged by the outcomes that have matured: the new champion stays, or the old one leads again; then who was
not told of a rollback yet is told. Beside it unusual predictions go into the review queue, what the servers encoded is
recomputed and held against the source, the prediction log of past days is compacted, and old versions archived.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param, get_current_context, task
from delivery.notifying import tell_people
from delivery.settings import NO_RETRY, as_of_param, as_of_run, options, schedule

from pipelines.projects import Project
from pipelines.views import projects


@task(execution_timeout=timedelta(hours=1))
def observe(project: str) -> dict[str, Any]:
    from airflow.sdk.exceptions import AirflowSkipException

    from pipelines.tasks import watching

    context = get_current_context()
    try:
        return watching.observe(project, as_of_run(context), days=context["params"]["days"])
    except (watching.NothingToWatchError, watching.HeldError) as why:
        raise AirflowSkipException(str(why)) from why


@task
def judge_holdout(project: str) -> dict[str, Any]:
    from pipelines.tasks import holding

    return holding.judge(project, as_of_run(get_current_context()))


@task(**NO_RETRY)
def is_kept(judged: dict[str, Any]) -> None:
    """Fails with the version that outcomes have taken the lead from."""
    from airflow.sdk.exceptions import AirflowFailException

    if judged["state"] == "rollback":
        raise AirflowFailException(f"{judged['rollout']} was rolled back by its holdout: {judged['reason']}")


@task
def whose_turn(project: str, judged: dict[str, Any]) -> dict[str, Any]:
    """Who waited until the holdout had ended."""
    from airflow.sdk.exceptions import AirflowSkipException

    from pipelines.tasks import holding

    following = holding.next_offer(project)
    if following is None:
        raise AirflowSkipException(f"No version of {project} waits for its rollout; the holdout: {judged['state']}.")
    return following


@task
def report(project: str, observed: dict[str, Any]) -> str | None:
    from pipelines.tasks import watching

    return watching.report(project, observed)


@task(trigger_rule="all_done")
def report_week(project: str) -> dict[str, Any]:
    """The page of the week that is over, on the project's weekday."""
    from airflow.sdk.exceptions import AirflowSkipException

    from pipelines.tasks import weekly

    as_of = as_of_run(get_current_context())
    week = weekly.is_report_due(project, as_of)
    if week is None:
        raise AirflowSkipException(f"The report of a week is not due as of {as_of}.")
    return weekly.write_weekly_report(project, week)


@task.short_circuit(ignore_downstream_trigger_rules=False)
def is_retrain_due(project: str, observed: dict[str, Any]) -> dict[str, Any] | None:
    from pipelines.tasks import watching

    return watching.due_retrain(project, observed)


@task(execution_timeout=timedelta(hours=1))
def collect_reviews(project: str) -> dict[str, Any]:
    """Unusual predictions, with their neighbours in training, for people to look at."""
    from pipelines.tasks import reviewing

    context = get_current_context()
    return reviewing.collect(project, as_of_run(context), days=context["params"]["days"])


@task(execution_timeout=timedelta(hours=1))
def compare_features(project: str) -> dict[str, Any]:
    """What the servers encoded, recomputed by the training code; the inputs, held against the source."""
    from pipelines.tasks import skewing

    context = get_current_context()
    compared = skewing.compare(project, as_of_run(context), days=context["params"]["days"])
    return {"sampled": compared["sampled"], "differing": skewing.differing(compared)}


@task(trigger_rule="all_done")
def tell(project: str) -> dict[str, list[str]]:
    """Of rollbacks that nobody was told of: by the command line, or while a channel could not be reached."""
    return tell_people(project)


@task(execution_timeout=timedelta(hours=4))
def compact_log(project: str) -> dict[str, Any]:
    from airflow.sdk.exceptions import AirflowSkipException

    from pipelines.tasks import compacting

    try:
        return compacting.compact(project, today=as_of_run(get_current_context()))
    except compacting.CompactionRunsError as another:
        raise AirflowSkipException(str(another)) from another


@task(execution_timeout=timedelta(hours=4), trigger_rule="all_done")
def archive_versions(project: str) -> dict[str, Any]:
    from airflow.sdk.exceptions import AirflowSkipException

    from pipelines.tasks import archiving

    try:
        result = archiving.archive(project, today=as_of_run(get_current_context()))
    except archiving.ArchiveRunsError as another:
        raise AirflowSkipException(str(another)) from another
    return {key: value for key, value in result.items() if key != "rows"}


def watch(project: Project) -> DAG:
    with DAG(
        **options(
            project, "watch", f"Watches the live predictions of {project.title}, and starts a retrain when one is due"
        ),
        doc_md=__doc__,
        schedule=schedule(project.schedules.watch),
        render_template_as_native_obj=True,
        params={
            "as_of": as_of_param("The date that the run pretends is today: outcomes after it are not seen."),
            "days": Param(
                7,
                type="integer",
                minimum=1,
                maximum=90,
                title="Days",
                description="How many days of predictions before that date are looked at.",
            ),
        },
    ) as dag:
        collect_reviews(project.name)
        compact_log(project.name) >> archive_versions(project.name)
        judged = judge_holdout(project.name)
        judged >> tell(project.name)
        is_kept(judged)
        TriggerDagRunOperator(
            task_id="release_next",
            trigger_dag_id=f"{project.name}.release",
            conf=whose_turn(project.name, judged),
            wait_for_completion=False,
        )
        observed = observe(project.name)
        report(project.name, observed)
        [observed, compare_features(project.name)] >> report_week(project.name)
        due = is_retrain_due(project.name, observed)
        due >> TriggerDagRunOperator(
            task_id="start_retrain",
            trigger_dag_id=f"{project.name}.retrain",
            conf="{{ ti.xcom_pull(task_ids='is_retrain_due') }}",
            wait_for_completion=False,
        )
    return dag


for _project in projects().values():
    globals()[f"{_project.name}_watch"] = watch(_project)
