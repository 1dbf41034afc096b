"""Makes the chart's Grafana dashboards of tools/dashboards.yaml.

`python tools/dashboards.py check` writes nothing: it tells what differs from the files, and ends
with status 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DESCRIPTION = Path(__file__).with_suffix(".yaml")
TARGET = ROOT / "deploy" / "k8s" / "tailorbird" / "files" / "dashboards"
_COLUMNS, _WIDTH, _HEIGHT = 24, 8, 7
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboards() -> dict[str, str]:
    """Return each dashboard's JSON by its file's name."""
    described = yaml.safe_load(DESCRIPTION.read_text())
    return {
        f"{name}.json": json.dumps(_dashboard(name, each), indent=1) + "\n"
        for name, each in described.items()
    }


def _dashboard(name: str, described: dict[str, Any]) -> dict[str, Any]:
    return {
        "uid": f"tailorbird-{name}",
        "title": described["title"],
        "tags": ["tailorbird"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables(described["jobs"])},
        "panels": _panels(described["rows"]),
    }


def _variables(jobs: str) -> list[dict[str, Any]]:
    query = f"label_values({jobs}, job)"
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "job",
            "label": "Release",
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": query, "refId": "job"},
            "definition": query,
            "refresh": 2,
            "sort": 1,
        },
    ]


def _panels(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": row["title"], "gridPos": place}
        )
        top += 1
        for start in range(0, len(row["panels"]), _COLUMNS // _WIDTH):
            line = row["panels"][start : start + _COLUMNS // _WIDTH]
            for column, panel in enumerate(line):
                place = {"x": column * _WIDTH, "y": top, "w": _WIDTH, "h": _HEIGHT}
                panels.append(_panel(len(panels) + 1, panel, place))
            top += _HEIGHT
    return panels


def _panel(number: int, panel: dict[str, Any], place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel["title"],
        "description": panel["about"],
        "gridPos": place,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": _query(query), "legendFormat": legend}
            for index, (legend, query) in enumerate(panel["queries"].items())
        ],
    }


def _query(query: str) -> str:
    return query.replace("$series", 'job="$job"').replace("$rate", "$__rate_interval")


def main() -> int:
    """Write the dashboards, or tell which are not what the description says."""
    wanted = dashboards()
    if sys.argv[1:] == ["check"]:
        there = {path.name: path.read_text() for path in TARGET.glob("*.json")}
        differing = sorted(name for name in wanted | there if wanted.get(name) != there.get(name))
        if differing:
            print(f"{', '.join(differing)}: not what {DESCRIPTION.name} says; run {__file__}")
        return bool(differing)
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, text in wanted.items():
        (TARGET / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
