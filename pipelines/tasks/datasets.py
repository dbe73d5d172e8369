"""The parts of a snapshot as the registry takes them."""

from pipelines.data.snapshots import Snapshot
from pipelines.registry.port import DataPart


def data_parts(snapshot: Snapshot) -> list[DataPart]:
    """Train, validation and test: where the rows are, their columns, window, number, and share of positive labels."""
    manifest = snapshot.manifest
    return [
        DataPart(
            name=name,
            snapshot=snapshot.id,
            uri=str(snapshot.data_path),
            columns=manifest.columns,
            rows=manifest.rows_by_part[name],
            start=window.start.isoformat(),
            end=window.end.isoformat(),
            label=manifest.label,
            label_share=manifest.label_share[name],
        )
        for name, window in manifest.windows.by_part().items()
    ]
