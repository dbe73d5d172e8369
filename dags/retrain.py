"""`<project>.retrain`: labelled data → validated snapshot → trials → optimised bundle → gates → registered version.

Where an alert asked for it, the on-call engineer is told of its end, also when the champion stays.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Param, get_current_context, task
from delivery.notifying import tell_people
from delivery.settings import NO_RETRY, as_of_param, as_of_run, options, schedule
from delivery.training_pods import training_place

from pipelines.projects import Project
from pipelines.views import projects


@task(retries=0)
def choose_window(project: str) -> dict[str, Any]:
    """Skips the run where the project's policy holds it back; the ledger has the reason."""
    from airflow.sdk.exceptions import AirflowSkipException

    from pipelines.tasks import triggering

    context = get_current_context()
    params, run = context["params"], context["dag_run"]
    by = getattr(run, "triggering_user_name", None) or str(run.run_type)
    trigger, reason = params["trigger"], params["reason"] or ""
    try:
        return triggering.begin_retrain(
            project, as_of_run(context), trigger, reason, by=by, request=run.run_id, insists=params["insist"]
        )
    except triggering.RetrainHeldError as held:
        raise AirflowSkipException(str(held)) from held


@task
def take_snapshot(project: str, windows: dict[str, Any]) -> str:
    from pipelines.tasks import retraining

    return retraining.take_snapshot(project, windows)


@task(**NO_RETRY)
def validate(project: str, snapshot: str) -> str:
    from pipelines.tasks import retraining

    return retraining.validate(project, snapshot, get_current_context()["params"]["accept_shifts"])


@task(**NO_RETRY)
def plan_trials(project: str, snapshot: str) -> list[dict[str, Any]]:
    from pipelines.tasks import retraining

    params = get_current_context()["params"]
    budget = (params["trainers"], params["trials"], params["minutes"])
    return retraining.plan_trials(project, snapshot, *budget, params["trigger"])


@task(retries=1, map_index_template="{{ task.op_kwargs['trial']['name'] }}")
def train(project: str, trial: dict[str, Any]) -> dict[str, Any]:
    from airflow.sdk.exceptions import AirflowTaskTimeout

    from pipelines.tasks import searching

    try:
        return searching.run_trial(project, trial)
    except AirflowTaskTimeout as error:  # of this trial alone: the others go on
        return searching.give_up(project, trial, searching.OUT_OF_TIME, str(error))


# a trial whose process was killed has no outcome, and the others go on; where no trial was planned, this is not reached
@task(**NO_RETRY, trigger_rule="all_done_min_one_success")
def best_of(project: str, trials: list[dict[str, Any]], outcomes: Any) -> dict[str, Any]:
    from pipelines.tasks import searching

    return searching.best_of(project, trials, list(outcomes))


@task(execution_timeout=timedelta(hours=1))
def optimise(project: str, best: dict[str, Any]) -> dict[str, Any]:
    from pipelines.tasks import optimising

    return optimising.optimise(project, best)


@task
def evaluate(project: str, candidate: dict[str, Any]) -> dict[str, Any]:
    from pipelines.tasks import judging

    return judging.evaluate(project, candidate)


@task
def conclude_emergency(project: str) -> dict[str, Any]:
    """Tells the on-call engineer what came of a retrain that an alert asked for; others need nobody at night."""
    from airflow.sdk.exceptions import AirflowSkipException

    from pipelines.tasks import emergencies

    context = get_current_context()
    if context["params"]["trigger"] != emergencies.TRIGGER:
        raise AirflowSkipException("nobody was woken by an alert for this retrain")
    instance = context["ti"]
    evaluation, registered = (instance.xcom_pull(task_ids=each) for each in ("evaluate", "register"))
    ended = emergencies.conclude(project, context["run_id"], as_of_run(context), evaluation, registered)
    return {**ended, "told": tell_people(project)}


def _form(trainers: list[str]) -> dict[str, Any]:
    """What a run may be told when it is started by hand."""
    return {
        "as_of": as_of_param("The date that the run pretends is today: labels after it are not seen."),
        "trigger": Param(
            "schedule",
            type="string",
            enum=["schedule", "drift", "performance", "alert", "manual"],
            title="Trigger",
            description="Why this retrain starts. `performance` and `alert` use the emergency window and search.",
            section="Why",
        ),
        "reason": Param(
            None,
            type=["null", "string"],
            title="Reason",
            description="For the ledger: what made you start it.",
            maxLength=500,
            section="Why",
        ),
        "insist": Param(
            False,
            type="boolean",
            title="Insist",
            description="Go past what holds a retrain back (cool-down, budget …), as far as the project lets a person. "
            "A manual retrain always does.",
            section="Why",
        ),
        "accept_shifts": Param(
            None,
            type=["null", "string"],
            minLength=5,
            maxLength=500,
            title="Accept shifts",
            description="When the data differs from the last accepted snapshot and the change is real: say why.",
            section="Data",
        ),
        "trainers": Param(
            trainers,
            type="array",
            items={"type": "string", "enum": trainers},
            minItems=1,
            examples=trainers,
            title="Trainers",
            description="Which of the project's trials to run.",
            section="Model",
        ),
        "trials": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=1000,
            title="Trials",
            description="How many in all, the plan's own first; empty is what the project's search says.",
            section="Model",
        ),
        "minutes": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            title="Minutes",
            description="Of training in all trials of the search; empty is what the project's search says.",
            section="Model",
        ),
    }


def retrain(project: Project) -> DAG:
    challenger = Asset(name=f"{project.name}.challenger", uri=f"paceline://{project.name}/challenger")

    @task(outlets=[challenger])
    def register(evaluation: dict[str, Any], *, outlet_events: Any = None) -> dict[str, Any]:
        from airflow.sdk.exceptions import AirflowSkipException

        from pipelines.tasks import judging

        if not evaluation["passed"]:
            raise AirflowSkipException(judging.why_the_champion_stays(evaluation))
        offer = judging.register(project.name, evaluation)
        outlet_events[challenger].extra = offer
        return offer

    parallel = None if project.training.search is None else project.training.search.parallel
    with DAG(
        **options(
            project,
            "retrain",
            f"Retrains {project.title} and offers a challenger that passed every gate",
            pool=f"{project.name}.retrain",
        ),
        doc_md=__doc__,
        schedule=schedule(project.schedules.retrain),
        dagrun_timeout=timedelta(hours=6),
        params=_form(list(project.training.trainers)),
    ) as dag:
        windows = choose_window(project.name)
        snapshot = validate(project.name, take_snapshot(project.name, windows))
        trials = plan_trials(project.name, snapshot)
        trained = train.override(
            execution_timeout=timedelta(minutes=project.training.trial_minutes),
            max_active_tis_per_dagrun=parallel,
            **training_place(project),
        )
        outcomes = trained.partial(project=project.name).expand(trial=trials)
        registered = register(evaluate(project.name, optimise(project.name, best_of(project.name, trials, outcomes))))
        # a teardown, so that it runs after whatever failed, and the run has the state of what comes before it
        registered >> conclude_emergency(project.name).as_teardown()
    return dag


for _project in projects().values():
    globals()[f"{_project.name}_retrain"] = retrain(_project)
