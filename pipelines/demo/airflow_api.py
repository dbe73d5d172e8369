"""A small client of Airflow's public API (v2), for the demo and for journeys."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

FINAL = ("success", "failed")


class AirflowApi:
    """Signs in once, and again when the token has expired."""

    def __init__(self, base_url: str, user: str, password: str) -> None:
        self._client = httpx.Client(base_url=base_url, timeout=60, trust_env=False)  # loopback, no proxy
        self._login = {"username": user, "password": password}

    def _request(self, method: str, path: str, **options: Any) -> Any:
        response = self._client.request(method, path, **options)
        if response.status_code == 401:
            token = self._client.post("/auth/token", json=self._login).raise_for_status().json()["access_token"]
            self._client.headers["Authorization"] = f"Bearer {token}"
            response = self._client.request(method, path, **options)
        if response.is_error:
            raise RuntimeError(f"Airflow answered {response.status_code} to {method} {path}: {response.text[:500]}")
        return response.json()

    def dags(self) -> dict[str, bool]:
        """The ids of the known DAGs → whether each is paused."""
        listed = self._request("GET", "/api/v2/dags", params={"limit": 200})["dags"]
        return {dag["dag_id"]: dag["is_paused"] for dag in listed}

    def import_errors(self) -> list[str]:
        """One text for each DAG file that could not be imported."""
        errors = self._request("GET", "/api/v2/importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace'][-600:]}" for error in errors]

    def trigger(self, dag: str, conf: Mapping[str, Any]) -> str:
        """Starts a run of `dag` and returns its id."""
        body = {"logical_date": None, "conf": dict(conf)}
        return str(self._request("POST", f"/api/v2/dags/{dag}/dagRuns", json=body)["dag_run_id"])

    def runs(self, dag: str) -> dict[str, str]:
        """The ids of the latest runs of `dag` → their states."""
        listed = self._request("GET", f"/api/v2/dags/{dag}/dagRuns", params={"limit": 100, "order_by": "-id"})
        return {run["dag_run_id"]: run["state"] for run in listed["dag_runs"]}

    def fail(self, dag: str, run: str) -> None:
        """Marks `run` as failed, which ends its tasks."""
        self._request("PATCH", f"/api/v2/dags/{dag}/dagRuns/{run}", json={"state": "failed"})

    def clear(self, dag: str, run: str, *tasks: str) -> None:
        """Has `tasks` of `run` and all that follows them run again, as somebody does who clears them in the UI."""
        body = {"dag_run_id": run, "task_ids": list(tasks), "include_downstream": True, "dry_run": False}
        body |= {"only_failed": False, "reset_dag_runs": True}
        self._request("POST", f"/api/v2/dags/{dag}/clearTaskInstances", json=body)

    def result(self, dag: str, run: str, task: str) -> Any:
        """What `task` of `run` returned."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        return self._request("GET", path, params={"deserialize": "true"})["value"]

    def tasks(self, dag: str, run: str) -> dict[str, str | None]:
        """`task` or `task[i]` → state, in the order in which they started."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances"
        found = self._request("GET", path, params={"limit": 100})["task_instances"]
        found.sort(key=lambda task: (task["start_date"] or "~", task["task_id"], task["map_index"]))
        return {
            task["task_id"] if task["map_index"] < 0 else f"{task['task_id']}[{task['map_index']}]": task["state"]
            for task in found
        }

    def wait_for_run(
        self, dag: str, run: str, *, seconds: float, on_tasks: Callable[[dict[str, str | None]], None]
    ) -> str:
        """The final state of `run`. Raises TimeoutError when it takes longer than `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            state = self.runs(dag).get(run)
            on_tasks(self.tasks(dag, run))
            if state in FINAL:
                return state
            if time.monotonic() > deadline:
                raise TimeoutError(f"{dag} {run} is still {state} after {seconds:.0f} s: {self.tasks(dag, run)}")
            time.sleep(0.5)
