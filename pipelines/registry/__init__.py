"""Which versions a project has, the bundle that each points at, and the aliases champion, challenger and previous."""

from pipelines.registry.port import Registry, Trial, Version

__all__ = ["Registry", "Trial", "Version"]
