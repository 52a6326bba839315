"""The manifest: what was acknowledged, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from handrail_demo.errors import DemoError
from handrail_demo.manifest import Entry, Manifest, distinct, read_manifest

GOOD = Entry("1/1", "good", "ingest.orders.order-accepted", 0, 0)
COPY = Entry("1/1", "copy", "ingest.orders.order-accepted", 0, 1)
BYTES = Entry(None, "undecodable:empty", "ingest.orders.order-accepted", 2, 0)


def test_what_was_acknowledged_is_read_back(tmp_path: Path) -> None:
    with Manifest(tmp_path / "new" / "manifest.jsonl") as manifest:
        for entry in (GOOD, COPY, BYTES):
            manifest.acknowledged(entry)
    assert read_manifest(tmp_path / "new" / "manifest.jsonl") == [GOOD, COPY, BYTES]


def test_each_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    with Manifest(tmp_path / "manifest.jsonl") as manifest:
        manifest.acknowledged(GOOD)
        assert read_manifest(tmp_path / "manifest.jsonl") == [GOOD]


def test_copies_are_one_and_nameless_records_are_named_by_their_coordinates() -> None:
    assert distinct([GOOD, COPY, BYTES]) == {"1/1", "@ingest.orders.order-accepted/2/0"}


def test_a_line_that_is_torn_is_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    with Manifest(path) as manifest:
        manifest.acknowledged(GOOD)
    with path.open("a") as lines:
        lines.write('{"identity": "2/')
    with pytest.raises(DemoError, match=r"manifest\.jsonl:2: not a line"):
        read_manifest(path)


def test_coordinates_that_come_twice_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    with Manifest(path) as manifest:
        manifest.acknowledged(GOOD)
        manifest.acknowledged(GOOD)
    with pytest.raises(DemoError, match=r":2: .* was acknowledged before"):
        read_manifest(path)


def test_a_manifest_that_cant_be_written_or_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DemoError, match="can't be written"):
        Manifest(tmp_path / "file" / "manifest.jsonl")
    with pytest.raises(DemoError, match="can't be read"):
        read_manifest(tmp_path / "none.jsonl")
