"""Finding or building a Go program, with a `go` that is a script."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from handrail.errors import HandrailError
from handrail.local import go
from handrail.local.go import GoProgram, NoGo

PROGRAM = GoProgram("viewer", "example.com/viewer", "v1.2.3", "cmd/viewer", takes="a while")
BUILDS = """\
#!/bin/sh
echo "$PWD: $*" >> "$TMPDIR/asked"
case "$1" in
  mod) echo '{"Dir": "'"$TMPDIR"'/module"}' ;;
  build) printf '#!/bin/sh\\necho viewer\\n' > "$4"; chmod +x "$4" ;;
esac
"""
FAILS = """\
#!/bin/sh
echo 'viewer.go:7: undefined: x' >&2
exit 1
"""


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine of one's own: an empty folder of programs, an empty cache. No Go where it usually is."""
    monkeypatch.setattr(go, "_USUAL_PLACE", str(tmp_path / "nowhere"))
    (tmp_path / "module").mkdir()
    (tmp_path / "bin").mkdir()
    return {
        "PATH": os.pathsep.join([str(tmp_path / "bin"), "/usr/bin", "/bin"]),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path),
    }


def put(env: dict[str, str], name: str, script: str) -> Path:
    file = Path(env["PATH"].split(os.pathsep)[0]) / name
    file.write_text(script)
    file.chmod(0o755)
    return file


def only_ours(env: dict[str, str]) -> dict[str, str]:
    """Without the programs of the machine, among which there may be a Go."""
    return env | {"PATH": env["PATH"].split(os.pathsep)[0]}


def asked(env: dict[str, str]) -> list[str]:
    file = Path(env["TMPDIR"]) / "asked"
    return file.read_text().splitlines() if file.exists() else []


def test_a_program_of_the_path_is_taken_and_nothing_is_built(env: dict[str, str]) -> None:
    put(env, "go", FAILS)
    mine = put(env, "viewer", "")
    assert PROGRAM.get(env, pytest.fail) == mine


def test_it_is_built_in_its_module_s_folder_once_and_said_so(env: dict[str, str]) -> None:
    put(env, "go", BUILDS)
    said: list[str] = []
    built = PROGRAM.get(env, said.append)
    assert built == Path(env["XDG_CACHE_HOME"]) / "handrail" / "viewer-v1.2.3" / "viewer"
    assert os.access(built, os.X_OK)
    assert said == ["building viewer v1.2.3 from its Go module: a while, this one time"]
    download, build = asked(env)
    assert download.endswith("mod download -json example.com/viewer@v1.2.3")
    assert build.startswith(f"{env['TMPDIR']}/module: build -mod=readonly -o ")
    assert PROGRAM.get(env, pytest.fail) == built
    assert len(asked(env)) == 2


def test_two_at_once_build_it_once(env: dict[str, str]) -> None:
    put(env, "go", BUILDS)
    found: list[Path] = []
    both = [threading.Thread(target=lambda: found.append(PROGRAM.get(env, lambda _: None))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(set(found)) == 1
    assert len(asked(env)) == 2


def test_without_go_it_is_told_what_to_install(env: dict[str, str]) -> None:
    with pytest.raises(NoGo, match="no viewer on the PATH and no Go to build it with: install Go"):
        PROGRAM.get(only_ours(env), pytest.fail)


def test_a_build_that_fails_is_told_in_go_s_own_words_and_leaves_nothing(env: dict[str, str]) -> None:
    put(env, "go", FAILS)
    with pytest.raises(HandrailError, match=r"viewer can't be built \(mod download: 1\): viewer.go:7: undefined: x"):
        PROGRAM.get(env, lambda _: None)
    assert PROGRAM.present(env) is None
    assert [file.name for file in PROGRAM.cached(env).parent.iterdir()] == ["lock"]


def test_a_cache_that_can_t_be_written_is_told(env: dict[str, str]) -> None:
    put(env, "go", BUILDS)
    Path(env["XDG_CACHE_HOME"]).write_text("a file")
    with pytest.raises(HandrailError, match="can't be built into"):
        PROGRAM.get(env, lambda _: None)


def test_what_a_killed_build_has_left_is_cleared_away_by_the_next(env: dict[str, str]) -> None:
    put(env, "go", BUILDS)
    folder = PROGRAM.cached(env).parent
    (folder / ".new-of-yesterday" / "below").mkdir(parents=True)
    PROGRAM.get(env, lambda _: None)
    assert sorted(file.name for file in folder.iterdir()) == ["lock", "viewer"]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ties processes so on Linux alone")
def test_a_build_ends_with_the_process_that_asked_for_it_however_that_ends(env: dict[str, str]) -> None:
    put(env, "go", '#!/bin/sh\necho $$ > "$TMPDIR/pid"\nexec sleep 600\n')
    program = (
        "import os; from handrail.local.go import GoProgram; GoProgram('viewer', 'm', 'v1', 'p').get(os.environ, id)"
    )
    asking = subprocess.Popen([sys.executable, "-c", program], env=env)
    try:
        said = Path(env["TMPDIR"]) / "pid"
        assert until(lambda: said.exists() and said.read_text().endswith("\n"))
    finally:
        asking.terminate()
        asking.wait(10)
    go_pid = int(said.read_text())
    assert until(lambda: not psutil.pid_exists(go_pid) or psutil.Process(go_pid).status() == psutil.STATUS_ZOMBIE)


def until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()
