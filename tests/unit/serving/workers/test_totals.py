from prometheus_client.parser import text_string_to_metric_families

from serving.workers.messages import Family
from serving.workers.totals import add_families, exposition, of_worker


def family(name: str, kind: str, *samples: tuple[str, dict[str, str], float]) -> Family:
    return Family(name=name, kind=kind, help="help", samples=list(samples))


def test_counters_and_histograms_are_sums_and_gauges_what_they_mean() -> None:
    def one(queue: float, ready: float, lag: float, count: float) -> list[Family]:
        return [
            family("paceline_queue_rows", "gauge", ("paceline_queue_rows", {}, queue)),
            family("paceline_ready", "gauge", ("paceline_ready", {}, ready)),
            family("paceline_log_lag_seconds", "gauge", ("paceline_log_lag_seconds", {}, lag)),
            family(
                "paceline_x",
                "histogram",
                ("paceline_x_bucket", {"le": "1"}, count),
                ("paceline_x_bucket", {"le": "+Inf"}, 2 * count),
                ("paceline_x_count", {}, 2 * count),
                ("paceline_x_sum", {}, 0.5),
            ),
        ]

    text = exposition(add_families([one(1, 1, 0.5, 2), one(2, 0, 3.0, 5)])).decode()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for each in text_string_to_metric_families(text)
        for sample in each.samples
    }
    assert found[("paceline_queue_rows",)] == 3
    assert found[("paceline_ready",)] == 0
    assert found[("paceline_log_lag_seconds",)] == 3
    assert (found["paceline_x_bucket", "1"], found["paceline_x_bucket", "+Inf"], found[("paceline_x_count",)]) == (
        7,
        14,
        14,
    )


def test_what_tells_of_a_process_is_told_by_worker_and_trips_by_the_supervisor_alone() -> None:
    told = [
        family("process_cpu_seconds", "counter", ("process_cpu_seconds_total", {}, 1.0)),
        family("paceline_trips", "counter", ("paceline_trips_total", {"cause": "lease"}, 0.0)),
        family("paceline_x", "counter", ("paceline_x_total", {"slot": "champion"}, 1.0)),
    ]
    found = add_families([of_worker(told, 0), of_worker(told, 1)])
    assert {each.name: each.samples for each in found} == {
        "process_cpu_seconds": [
            ("process_cpu_seconds_total", {"worker": "0"}, 1.0),
            ("process_cpu_seconds_total", {"worker": "1"}, 1.0),
        ],
        "paceline_x": [("paceline_x_total", {"slot": "champion"}, 2.0)],
    }
