"""Which versions a project has, the bundle that each points at, and the aliases champion, challenger and previous."""

from pipelines.registry.port import DataPart, Registry, Trial, Version

__all__ = ["DataPart", "Registry", "Trial", "Version"]
