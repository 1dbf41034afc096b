"""Links of Markdown files that lead nowhere are found, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.links import anchors, broken_links


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "other.md").write_text(
        "# The queue\n\n## `jobs create`, and more\n\n## The queue\n"
    )
    (tmp_path / "picture.png").touch()
    return tmp_path / "page.md"


@pytest.mark.parametrize(
    "link",
    ["other.md", "other.md#the-queue", "other.md#the-queue-1", "other.md#jobs-create-and-more",
     "#here", "picture.png", "https://example.com/nothing", "mailto:a@example.com"],
)  # fmt: skip
def test_what_is_there_is_not_told(page: Path, link: str) -> None:
    page.write_text(f"# Here\n\n[so]({link})\n")
    assert broken_links(page, page.parent) == []


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("nothing.md", "there is no such file"),
        ("../../etc/passwd", "there is no such file"),
        ("other.md#the-queues", "other.md has no such heading"),
        ("#there", "page.md has no such heading"),
    ],
)
def test_what_is_not_there_is_told_with_its_line(page: Path, link: str, why: str) -> None:
    page.write_text(f"# Here\n\ntext\n\n| a |\n|---|\n| [so]({link}) |\n")
    assert broken_links(page, page.parent) == [f"page.md:7: {link}: {why}"]


def test_a_picture_is_a_link(page: Path) -> None:
    page.write_text("![so](nothing.png)\n")
    assert broken_links(page, page.parent) == ["page.md:1: nothing.png: there is no such file"]


def test_a_link_in_code_is_none(page: Path) -> None:
    page.write_text("`[so](nothing.md)`\n\n```\n[so](nothing.md)\n```\n")
    assert broken_links(page, page.parent) == []
    assert anchors(page) == set()
