"""`<project>.retrain`: labelled data → validated snapshot → trials → optimised bundle → gates → registered version."""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Param, get_current_context, task
from delivery.settings import NO_RETRY, as_of_param, as_of_run, options, schedule

from pipelines.projects import Project
from pipelines.views import projects


@task(retries=0)
def choose_window(project: str) -> dict[str, Any]:
    from pipelines.tasks import retraining

    context = get_current_context()
    params = context["params"]
    return retraining.choose_window(project, as_of_run(context), params["trigger"], params["reason"] or "")


@task
def take_snapshot(project: str, windows: dict[str, Any]) -> str:
    from pipelines.tasks import retraining

    return retraining.take_snapshot(project, windows)


@task(**NO_RETRY)
def validate(project: str, snapshot: str) -> str:
    from pipelines.tasks import retraining

    return retraining.validate(project, snapshot)


@task(**NO_RETRY)
def plan_trials(project: str, snapshot: str) -> list[dict[str, Any]]:
    from pipelines.tasks import retraining

    return retraining.plan_trials(project, snapshot, get_current_context()["params"]["trainers"])


@task(execution_timeout=timedelta(hours=2))
def train(project: str, trial: dict[str, Any]) -> dict[str, Any]:
    from pipelines.tasks import retraining

    return retraining.train(project, trial)


@task(execution_timeout=timedelta(hours=1))
def optimise(project: str, trials: Any) -> dict[str, Any]:
    from pipelines.tasks import optimising

    return optimising.optimise(project, list(trials))


@task
def evaluate(project: str, candidate: dict[str, Any]) -> dict[str, Any]:
    from pipelines.tasks import judging

    return judging.evaluate(project, candidate)


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

    trainers = sorted({trial.trainer for trial in project.training.trials})
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
        params={
            "as_of": as_of_param("The date that the run pretends is today: labels after it are not seen."),
            "trigger": Param(
                "schedule",
                type="string",
                enum=["schedule", "drift", "performance", "alert", "manual"],
                title="Trigger",
                description="Why this retrain starts. `performance` and `alert` use the emergency window.",
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
        },
    ) as dag:
        windows = choose_window(project.name)
        snapshot = validate(project.name, take_snapshot(project.name, windows))
        trials = train.partial(project=project.name).expand(trial=plan_trials(project.name, snapshot))
        register(evaluate(project.name, optimise(project.name, trials)))
    return dag


for _project in projects().values():
    globals()[f"{_project.name}_retrain"] = retrain(_project)
