"""Names and labels that the platform, the manifests and the dashboards share."""

PREFIX = "paceline.dev"
PART_OF = ("app.kubernetes.io/part-of", "paceline")
MANAGED_BY = ("app.kubernetes.io/managed-by", "paceline-rollout")
PROJECT, TRACK = f"{PREFIX}/project", f"{PREFIX}/track"
ROLLOUT, LEASE_UNTIL, SPLIT = f"{PREFIX}/rollout", f"{PREFIX}/lease-until", f"{PREFIX}/split"
VERSION, BUNDLE = f"{PREFIX}/version", f"{PREFIX}/bundle"
CONTAINER = "serving"
BUNDLE_VARIABLE, VERSION_VARIABLE = "PACELINE_SERVING_BUNDLE", "PACELINE_SERVING_VERSION"  # what a pod comes up with
SHORT_DIGITS = 12  # of a bundle's id: the version of a server that was told none
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
