"""Registers Paceline with Airflow. The code is in the package `delivery`, which the plugin loader does not read."""

from typing import Any

from airflow.plugins_manager import AirflowPlugin

# steps that rise, as the shares of a rollout do; its green is seen on light, on dark, and where it is chosen
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='24' height='24' fill='none' "
    "stroke='%2312a37a' stroke-width='2' stroke-linecap='round' stroke-linejoin='round'%3E"
    "%3Cpath d='M3 20h5v-5h5v-6h4V4h4'/%3E"
    "%3Ccircle cx='4.5' cy='13' r='1.6'/%3E%3C/svg%3E"
)


async def console(scope: Any, receive: Any, send: Any) -> None:
    """The app of `delivery.console`, loaded at the first request: all Airflow processes read this file, one serves."""
    from delivery.console import app

    await app(scope, receive, send)


async def alerts(scope: Any, receive: Any, send: Any) -> None:
    """The app of `delivery.alerts`; it asks Airflow's own app, which mounts this one, to start runs."""
    from delivery.alerts import AIRFLOW, app

    await app({**scope, AIRFLOW: scope.get("app")}, receive, send)


class PacelinePlugin(AirflowPlugin):
    name = "paceline"
    fastapi_apps = [  # noqa: RUF012 - Airflow's shape
        {"app": alerts, "url_prefix": "/paceline/hooks", "name": "Paceline alerts"},  # before the app above its path
        {"app": console, "url_prefix": "/paceline", "name": "Paceline"},
    ]
    external_views = [  # noqa: RUF012
        {
            "name": "Paceline",
            "href": "paceline/",
            "url_route": "paceline",
            "destination": "nav",
            "nav_top_level": True,
            "icon": _ICON,
        }
    ]
