"""Names and labels that the platform, the manifests and the dashboards share."""

PREFIX = "paceline.dev"
PART_OF = ("app.kubernetes.io/part-of", "paceline")
MANAGED_BY = ("app.kubernetes.io/managed-by", "paceline-rollout")
PROJECT, TRACK = f"{PREFIX}/project", f"{PREFIX}/track"
ROLLOUT, LEASE_UNTIL, SPLIT = f"{PREFIX}/rollout", f"{PREFIX}/lease-until", f"{PREFIX}/split"
VERSION, BUNDLE = f"{PREFIX}/version", f"{PREFIX}/bundle"
CONTAINER = "serving"
CHAMPION_VARIABLE = "PACELINE_SERVING_CHAMPION"  # what a server comes up with
DEPLOYMENTS, ROUTES, LEASES = "apps/v1", "gateway.networking.k8s.io/v1", "coordination.k8s.io/v1"


def resource_name(project: str) -> str:
    """A project's name as the API takes it: no underscores."""
    return project.replace("_", "-")


def stable(project: str) -> str:
    """The champion's Deployment and Service."""
    return f"{resource_name(project)}-stable"


def challenger(project: str) -> str:
    """The challenger's Deployment and Service."""
    return f"{resource_name(project)}-challenger"
