"""The tier on local disk, and the way there from the object store."""

from serving_svc.adapters.disk.deletions import Deletions
from serving_svc.adapters.disk.index import has_versions
from serving_svc.adapters.disk.tier import AdapterDisk, HeldVersion

__all__ = ["AdapterDisk", "Deletions", "HeldVersion", "has_versions"]
