"""The templates, and the console's pages and files, are in the wheel."""

from __future__ import annotations

from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

import trainer_svc.report

ROOT = Path(trainer_svc.report.__file__).parents[2]


def test_a_wheel_carries_the_templates() -> None:
    templates = {path.name for path in (ROOT / "trainer_svc/report/templates").iterdir()}
    assert {"page.html.j2", "page.css", "card.md.j2"} <= templates
    carried = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"trainer_svc/report/templates/{name}" for name in templates} <= carried
    console = ROOT / "shared/tailorbird/console"
    served = {file for folder in ("templates", "static") for file in (console / folder).iterdir()}
    assert len(served) > 10
    assert {f"tailorbird/console/{file.relative_to(console)}" for file in served} <= carried
