"""Adapters trained elsewhere, on their way to becoming versions."""

from serving_svc.adapters.importing.importer import AdapterImporter
from serving_svc.adapters.importing.sources import ImportSources

__all__ = ["AdapterImporter", "ImportSources"]
