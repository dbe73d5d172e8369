"""Registers Paceline with Airflow. The code is in the package `delivery`, which the plugin loader does not read."""

from airflow.plugins_manager import AirflowPlugin


class PacelinePlugin(AirflowPlugin):
    name = "paceline"
