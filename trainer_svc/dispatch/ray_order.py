"""What is asked of a Ray cluster: one worker, and what its machine must have."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_svc.protocol import WorkerSettings
from trainer_svc.record import Record


class RayCluster(Record):
    """A cluster, and what each worker takes of it."""

    address: str
    """ray://HOST:PORT, or HOST:PORT of the cluster that this machine is a node of."""
    cpus: float
    gpus: float
    memory: int | None
    """Bytes that a worker may have of its machine's memory; None: as many as it takes."""
    resources: Mapping[str, float]
    """Of the cluster's own."""
    data_dir: str
    """Folder of each machine, for scratch and caches."""
    room_seconds: float
    """How long to wait for a machine with room."""
    silence_seconds: float
    """How long a machine may be silent."""


class RayOrder(Record):
    """One worker, for the process that stands for it: the first line on its socket."""

    cluster: RayCluster
    base_model: str
    """Folder of the machine, or id of the hub, that has the base with the settings' digest."""
    general_data: str
    """The text of the file that the settings name, if they do."""
    settings: WorkerSettings
    """But for the paths, which are the machine's own."""
