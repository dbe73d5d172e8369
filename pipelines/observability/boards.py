"""Grafana's boards as typed models: which panels there are, and what each asks.

`python -m pipelines.observability.boards FOLDER` writes their JSON, which Grafana's provisioning reads.
A board has the variables `source` (any Prometheus) and `project`. A test compares the written files with these, lets
promtool parse every expression, and holds the metrics that they name against those that are exported.
"""

import sys
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from pipelines.observability.panels import Board, Panel, panel_of

_HEIGHT, _WIDTH = 8, 12  # of Grafana's 24 columns


_OF_VERSION = "{{version}} {{slot}}"
_LATENCY = "project_version_slot:paceline_prediction_latency_seconds"

SERVING = Board(
    "paceline-serving",
    "Paceline: serving",
    (
        (
            "Requests",
            (
                panel_of(
                    "Requests",
                    "Responses of the prediction routes a second, by status.",
                    "reqps",
                    ("sum by (project, status) (rate(paceline_responses_total{CHOSEN}[5m]))", "{{project}} {{status}}"),
                ),
                panel_of(
                    "Error budget",
                    "How many times too fast 0.1 % of faults is used up; 14.4 over an hour pages.",
                    "short",
                    ("project:paceline_response_errors:ratio_rate5m{CHOSEN} / 0.001", "{{project}} 5 minutes"),
                    ("project:paceline_response_errors:ratio_rate1h{CHOSEN} / 0.001", "{{project}} 1 hour"),
                    ("project:paceline_response_errors:ratio_rate6h{CHOSEN} / 0.001", "{{project}} 6 hours"),
                ),
                panel_of(
                    "Latency",
                    "Encoding and scoring, percentiles over five minutes.",
                    "s",
                    *((f"{_LATENCY}:{p}_rate5m{{CHOSEN}}", f"{p} {_OF_VERSION}") for p in ("p50", "p95", "p99")),
                ),
                panel_of(
                    "Slow predictions",
                    "Share that took longer than 51.2 ms; the objective is 1 %.",
                    "percentunit",
                    ("project:paceline_slow_predictions:ratio_rate5m{CHOSEN}", "{{project}} 5 minutes"),
                    ("project:paceline_slow_predictions:ratio_rate1h{CHOSEN}", "{{project}} 1 hour"),
                ),
            ),
        ),
        (
            "Saturation",
            (
                panel_of(
                    "Queue",
                    "Rows that wait for a graph run, and how long one in a hundred waits.",
                    "short",
                    ("project:paceline_queue_rows:max5m{CHOSEN}", "{{project}} rows"),
                    ("project:paceline_queue_seconds:p99_rate5m{CHOSEN}", "{{project}} seconds (p99)"),
                ),
                panel_of(
                    "Processors",
                    "Processors that a server uses.",
                    "short",
                    ("instance:process_cpu_seconds:rate5m{CHOSEN}", "{{instance}}"),
                ),
                panel_of(
                    "Refused and expired",
                    "Rows a second that were refused, or whose time was over.",
                    "short",
                    ("sum by (project) (rate(paceline_rows_shed_total{CHOSEN}[5m]))", "{{project}} refused"),
                    ("sum by (project) (rate(paceline_rows_expired_total{CHOSEN}[5m]))", "{{project}} expired"),
                ),
                panel_of(
                    "Prediction log",
                    "Age of the oldest row that is not on disk, and rows that never were.",
                    "s",
                    ("project:paceline_log_lag_seconds:max{CHOSEN}", "{{project}} lag"),
                    ("sum by (project) (increase(paceline_log_dropped_total{CHOSEN}[5m]))", "{{project}} dropped rows"),
                ),
            ),
        ),
    ),
)


def _side_by_side(
    title: str, says: str, unit: str, expression: str, legend: str = "{{version}}"
) -> tuple[Panel, Panel]:
    """The same of both slots, on the left and on the right."""
    left, right = (
        panel_of(f"{title}: {slot}", says, unit, (expression.replace("SLOT", f'CHOSEN, slot="{slot}"'), legend))
        for slot in ("champion", "challenger")
    )
    return left, right


VERSIONS = Board(
    "paceline-versions",
    "Paceline: champion and challenger",
    (
        (
            "Traffic",
            _side_by_side("Rows", "Rows a second.", "short", "project_version_slot:paceline_predictions:rate5m{SLOT}"),
        ),
        (
            "Errors",
            _side_by_side(
                "Errors",
                "Share of the rows that failed.",
                "percentunit",
                "project_version_slot:paceline_prediction_errors:ratio_rate5m{SLOT}",
            ),
        ),
        ("Latency", _side_by_side("Latency p99", "Over five minutes.", "s", f"{_LATENCY}:p99_rate5m{{SLOT}}")),
        (
            "Scores",
            _side_by_side(
                "Mean score", "Over half an hour.", "short", "project_version_slot:paceline_scores:mean_rate30m{SLOT}"
            ),
        ),
        (
            "Quality",
            _side_by_side(
                "Quality by outcomes",
                "Of the last watch; no curve where no outcome is known.",
                "short",
                "paceline_watch_quality{SLOT}",
                "{{metric}} {{version}}",
            ),
        ),
        (
            "Rollout",
            (
                panel_of(
                    "Share and lease",
                    "The challenger's share, and the seconds that its lease still has.",
                    "short",
                    ("max by (project) (paceline_challenger_share{CHOSEN})", "{{project}} share"),
                    ("max by (project) (paceline_holdout_share{CHOSEN})", "{{project}} holdout"),
                    ("min by (project) (paceline_lease_left_seconds{CHOSEN})", "{{project}} lease"),
                ),
                panel_of(
                    "Shadow flips",
                    "Share of the shadowed pairs with another decision.",
                    "percentunit",
                    (
                        "sum by (project) (rate(paceline_shadow_flips_total{CHOSEN}[5m])) "
                        "/ (sum by (project) (rate(paceline_shadow_pairs_total{CHOSEN}[5m])) > 0)",
                        "{{project}}",
                    ),
                ),
            ),
        ),
    ),
)

DATA = Board(
    "paceline-data",
    "Paceline: data and drift",
    (
        (
            "Now",
            (
                panel_of(
                    "Unusual rows",
                    "Share of the champion's rows unlike the training data, by flag.",
                    "percentunit",
                    (
                        "sum by (project, flag) "
                        '(rate(paceline_unusual_predictions_total{CHOSEN, slot="champion"}[5m])) '
                        "/ on (project) group_left () "
                        '(sum by (project) (rate(paceline_predictions_total{CHOSEN, slot="champion"}[5m])) > 0)',
                        "{{project}} {{flag}}",
                    ),
                ),
                panel_of(
                    "Scores",
                    "Mean score by version, and 1 during an alarm of the fast watch.",
                    "short",
                    ("project_version_slot:paceline_scores:mean_rate30m{CHOSEN}", _OF_VERSION),
                    ("paceline_score_drift_alarm{CHOSEN}", "{{project}} alarm"),
                ),
                panel_of(
                    "Score drift",
                    "Share of the last hour's scores above the edge, within its usual range at this hour.",
                    "percentunit",
                    ("paceline_score_drift_share{CHOSEN}", "{{project}} now"),
                    ("paceline_score_drift_usual_low{CHOSEN}", "{{project}} usual, low"),
                    ("paceline_score_drift_usual_high{CHOSEN}", "{{project}} usual, high"),
                ),
                panel_of(
                    "Skew",
                    "Share of the sampled rows that differ from training's encoding, and from the source.",
                    "percentunit",
                    (
                        "paceline_skew_rows_differing{CHOSEN} / (paceline_skew_rows_compared{CHOSEN} > 0)",
                        "{{project}} {{against}}",
                    ),
                ),
            ),
        ),
        (
            "Drift",
            (
                panel_of(
                    "Drift",
                    "By the last watch: 1 where it counts; the highest sum of the board raises an alarm at 1.",
                    "short",
                    ("paceline_watch_drift{CHOSEN}", "{{project}} {{of}}"),
                    ("paceline_watch_drift_highest_sum{CHOSEN}", "{{project}} highest sum"),
                ),
                panel_of(
                    "Drift by column",
                    "Distance to the training rows, in units of the limit of each column that counts.",
                    "short",
                    ('paceline_watch_drift_distance{CHOSEN, counts="yes"}', "{{project}} {{column}}"),
                ),
                panel_of(
                    "Broken data",
                    "Columns whose data is broken rather than changed, by kind.",
                    "short",
                    ("sum by (project, kind) (paceline_watch_data_quality{CHOSEN})", "{{project}} {{kind}}"),
                ),
                panel_of(
                    "The reference and now",
                    "How well a classifier tells them apart: AUC, 0.5 is not at all.",
                    "short",
                    ("paceline_watch_relation_auc{CHOSEN}", "{{project}}"),
                ),
            ),
        ),
        (
            "Outcomes",
            (
                panel_of(
                    "Quality",
                    "By outcomes, with its 95 % interval.",
                    "short",
                    ("paceline_watch_quality{CHOSEN}", "{{metric}} {{version}} {{slot}}"),
                    ("paceline_watch_quality_low{CHOSEN}", "{{metric}} {{version}} low"),
                    ("paceline_watch_quality_high{CHOSEN}", "{{metric}} {{version}} high"),
                ),
                panel_of(
                    "Labels",
                    "Age of the newest outcome, and the usual delay.",
                    "d",
                    ("paceline_watch_label_age_days{CHOSEN}", "{{project}} age"),
                    ("paceline_watch_label_delay_days{CHOSEN}", "{{project}} usual delay"),
                ),
                panel_of(
                    "Coverage",
                    "Known outcomes of those that are due.",
                    "percentunit",
                    ("paceline_watch_label_coverage_ratio{CHOSEN}", "{{project}}"),
                ),
                panel_of(
                    "Quarantined outcomes",
                    "That could not be believed, by reason.",
                    "short",
                    ("paceline_watch_outcomes_quarantined{CHOSEN}", "{{project}} {{reason}}"),
                ),
            ),
        ),
    ),
)

PIPELINES = Board(
    "paceline-pipelines",
    "Paceline: pipeline health",
    (
        (
            "Ages",
            (
                panel_of(
                    "Ages",
                    "Of the champion, of the last retrain, of the last watch.",
                    "s",
                    ("project:paceline_champion_age_seconds{CHOSEN}", "{{project}} champion"),
                    ("project:paceline_retrain_age_seconds{CHOSEN}", "{{project}} retrain"),
                    ("project:paceline_watch_age_seconds{CHOSEN}", "{{project}} watch"),
                ),
                panel_of(
                    "Read by the last watch",
                    "Predictions, and what of them could not be read.",
                    "short",
                    ("paceline_watch_predictions{CHOSEN}", "{{project}} predictions"),
                    ("paceline_watch_damaged_segments{CHOSEN}", "{{project}} damaged segments"),
                    ("paceline_watch_days_empty{CHOSEN}", "{{project}} empty days"),
                ),
            ),
        ),
        (
            "Retrains and rollouts",
            (
                panel_of(
                    "Retrains",
                    "Started in a day, and held back, by trigger.",
                    "short",
                    ("increase(paceline_retrains_total{CHOSEN}[1d])", "{{project}} {{trigger}}"),
                    ("increase(paceline_retrains_suppressed_total{CHOSEN}[1d])", "held back: {{trigger}}, {{hold}}"),
                ),
                panel_of(
                    "Rollouts",
                    "Ended in a day, by how; and what runs and waits.",
                    "short",
                    ("increase(paceline_rollouts_total{CHOSEN}[1d])", "{{project}} {{state}}"),
                    ("paceline_rollout_running{CHOSEN}", "{{project}} runs"),
                    ("paceline_rollouts_queued{CHOSEN}", "{{project}} waiting"),
                ),
                panel_of(
                    "Failures",
                    "Tasks that failed for good in a day, by workflow.",
                    "short",
                    ("increase(paceline_workflow_failures_total{CHOSEN}[1d])", "{{project}} {{workflow}}"),
                ),
                panel_of(
                    "Open investigations",
                    "Rollbacks that nobody has explained yet.",
                    "short",
                    ("paceline_investigations_open{CHOSEN}", "{{project}}"),
                ),
            ),
        ),
        (
            "The monitor",
            (
                panel_of(
                    "Alive",
                    "1 while it is scraped, and while the ledger answers.",
                    "short",
                    ("up", "{{job}} {{instance}}"),
                    ("paceline_ledger_up", "ledger"),
                ),
                panel_of(
                    "Fast watch",
                    "Seconds since it looked at the scores, and servers that it could not read.",
                    "short",
                    ("time() - paceline_score_watch_last_look_timestamp_seconds{CHOSEN}", "{{project}} age"),
                    ("paceline_score_watch_servers_unreachable{CHOSEN}", "{{project}} unreachable"),
                ),
                panel_of(
                    "Notifications that failed",
                    "Of Alertmanager, in a quarter of an hour, by integration.",
                    "short",
                    ("increase(alertmanager_notifications_failed_total[15m])", "{{integration}}"),
                ),
            ),
        ),
    ),
)

BOARDS = (SERVING, VERSIONS, DATA, PIPELINES)


def drawn(board: Board) -> str:
    """The board's JSON, as Grafana reads it."""
    source = DataSourceRef(type_val="prometheus", uid="${source}")
    built = (
        Dashboard(board.title)
        .uid(board.uid)
        .tags(["paceline"])
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .with_variable(DatasourceVariable("source").type("prometheus").label("Prometheus"))
        .with_variable(
            QueryVariable("project")
            .datasource(source)
            .query("label_values(paceline_ready, project)")
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    numbers = count(1)
    for title, panels in board.rows:
        built = built.with_row(Row(title).id(next(numbers)))
        for panel in panels:
            drawing = (
                TimeSeries()
                .id(next(numbers))
                .legend(VizLegendOptions().show_legend(True))
                .title(panel.title)
                .description(panel.says)
                .unit(panel.unit)
                .datasource(source)
                .height(_HEIGHT)
                .span(_WIDTH)
                .min(0)
            )
            for number, asked in enumerate(panel.asked):
                query = Dataquery().expr(asked.expression).legend_format(asked.legend)
                drawing = drawing.with_target(query.ref_id(chr(ord("A") + number)))
            built = built.with_panel(drawing)
    return str(JSONEncoder(sort_keys=True, indent=2).encode(built.build())) + "\n"


def main(folder: Path) -> None:
    """Writes all boards to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (folder / f"{board.uid}.json").write_text(drawn(board))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
