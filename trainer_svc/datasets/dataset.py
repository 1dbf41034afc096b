"""A stored dataset's record: what meta.json holds."""

from __future__ import annotations

from datetime import datetime

from pydantic import ConfigDict

from tailorbird.personal_data.modes import Mode
from tailorbird.records.formats import DatasetFormat
from trainer_svc.datasets.personal_data import PersonalDataReport
from trainer_svc.datasets.report.model import DatasetReport
from trainer_svc.record import Record


class Dataset(Record):
    """A stored dataset; see `tailorbird.tuning.v1.Dataset`. Fields of a newer writer are kept."""

    model_config = ConfigDict(extra="allow")

    name: str
    format: DatasetFormat
    record_count: int
    size_bytes: int
    sha256: str
    create_time: datetime
    ignored_fields: tuple[str, ...]
    report: DatasetReport | None = None
    """None of datasets that an earlier release stored: these have no digest index, either."""
    source_sha256: str = ""
    """Of the uploaded bytes. Empty: of a release that stored them as they came."""
    personal_data: PersonalDataReport | None = None
    """None: nothing was looked for."""
    source_uri: str = ""
    """Where it was imported from. Empty: it was uploaded."""
    filename: str = ""
    """What an uploader who named no dataset called the file; theirs, and no path of ours."""

    def is_same_upload(self, other: Dataset) -> bool:
        """Tell whether both are of the same bytes, and the same was done about personal data.

        Or came to the same.
        """
        mine, theirs = (each.source_sha256 or each.sha256 for each in (self, other))
        if (mine, self.format) != (theirs, other.format):
            return False
        return self.sha256 == other.sha256 or self.personal_data_mode is other.personal_data_mode

    @property
    def personal_data_mode(self) -> Mode:
        """What was done about personal data."""
        return Mode.OFF if self.personal_data is None else self.personal_data.mode

    @property
    def data_key(self) -> str:
        """Key of the bytes in the object store."""
        return f"{self.name}/data-{self.sha256}.jsonl"

    @property
    def index_key(self) -> str:
        """Key of the digest index in the object store: of these bytes, read as this format."""
        return f"{self.name}/index-{self.sha256}-{self.format}.bin"
