"""Registers Paceline with Airflow. The code is in the package `delivery`, which the plugin loader does not read."""

from typing import Any

from airflow.plugins_manager import AirflowPlugin


async def console(scope: Any, receive: Any, send: Any) -> None:
    """The app of `delivery.console`, loaded at the first request: all Airflow processes read this file, one serves."""
    from delivery.console import app

    await app(scope, receive, send)


class PacelinePlugin(AirflowPlugin):
    name = "paceline"
    fastapi_apps = [{"app": console, "url_prefix": "/paceline", "name": "Paceline"}]  # noqa: RUF012 - Airflow's shape
    external_views = [  # noqa: RUF012
        {
            "name": "Paceline",
            "href": "paceline/",
            "url_route": "paceline",
            "destination": "nav",
            "nav_top_level": True,
        }
    ]
