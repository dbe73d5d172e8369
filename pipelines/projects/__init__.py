"""The definition of a project: one strict `project.yaml`, parsed at the edge into frozen values of which each
capability gets only its own slice, and the project's `source.py` beside it."""

from pipelines.projects.definition import MonitoringPolicy, Project, Schedules
from pipelines.projects.loading import ProjectError, load_project, load_projects

__all__ = ["MonitoringPolicy", "Project", "ProjectError", "Schedules", "load_project", "load_projects"]
