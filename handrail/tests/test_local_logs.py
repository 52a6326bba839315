"""Log files of the local stack."""

from pathlib import Path

import pytest
from handrail.errors import ConfigError
from handrail.local.logs import MAX_LINE, Lines, LogFiles, RotatingFile, follow, last_lines, log_path
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.binary(max_size=40)), st.data())
def test_lines_do_not_depend_on_how_a_pipe_cuts_them(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"\n".join(line.replace(b"\n", b"") for line in lines)
    one, many = Lines(), Lines()
    expected = [*one.feed(whole), *one.end()]
    found = []
    rest = whole
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += many.feed(rest[:size])
        rest = rest[size:]
    assert [*found, *many.end()] == expected


def test_an_endless_line_is_cut_up_and_not_kept_in_memory() -> None:
    lines = Lines()
    found = [line for _ in range(5) for line in lines.feed(b"x" * MAX_LINE)]
    assert sum(map(len, found)) == 5 * MAX_LINE
    assert max(map(len, found)) <= MAX_LINE


def test_bytes_that_are_no_text_are_logged_all_the_same() -> None:
    assert list(Lines().feed(b"\xff\xfe!\n")) == ["\ufffd\ufffd!"]


def test_a_log_is_rotated_at_its_size_and_the_last_lines_span_both_files(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "a.log", max_bytes=100)
    for number in range(30):
        file.write(f"line {number:03}")
    file.close()
    assert (tmp_path / "a.log").stat().st_size <= 100
    assert (tmp_path / "a.log.1").stat().st_size <= 100
    assert last_lines(tmp_path / "a.log", 12) == [f"line {number:03}" for number in range(18, 30)]


def test_a_full_disk_loses_log_lines_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.symlink_to("/dev/full")
    file = RotatingFile(path)
    file.write("lost")
    path.unlink()
    file.write("kept")
    file.close()
    assert path.read_text() == "kept\n"


def test_each_service_has_its_log_and_all_have_one(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path)
    logs.write("ingest", "one")
    logs.write("action", "two")
    logs.close()
    assert (tmp_path / "ingest.log").read_text() == "one\n"
    assert (tmp_path / "all.log").read_text() == "ingest | one\naction | two\n"


def test_following_goes_on_over_a_rotation_and_ends_when_the_stack_does(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    file = RotatingFile(path, max_bytes=20)
    file.write("before")
    steps = [lambda: file.write("first 00000"), lambda: file.write("second 0000"), lambda: file.write("third 00000")]

    def ended() -> bool:
        if steps:
            steps.pop(0)()
            return False
        return True

    assert list(follow(path, ended, pause_s=0)) == ["first 00000", "second 0000", "third 00000"]
    file.close()


def test_a_log_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start with handrail up"):
        log_path(tmp_path, "ingest")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "action.log").write_text("")
    with pytest.raises(ConfigError, match="there are action"):
        log_path(tmp_path, "ingest")
