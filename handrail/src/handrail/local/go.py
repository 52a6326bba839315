"""Programs written in Go: the one of the PATH, else built once from its module into the user's cache."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from handrail.errors import HandrailError
from handrail.local import processes

SAY_EVERY_S = 15.0
BUILD_S = 3_600.0
_USUAL_PLACE = "/usr/local/go/bin"
_TOLD = 1_000
_NEW = ".new-"


class NoGo(HandrailError):
    """The program is not there, and there is no Go to build it with."""


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A program: what it is called on the PATH, and the module, version and package that it is built from.

    It is built in the module's own folder, with the versions of its own go.sum (`-mod=readonly`): `go install` refuses
    modules that replace others, and Jaeger does.
    """

    name: str
    module: str
    version: str
    package: str
    takes: str = "a minute"

    def cached(self, env: Mapping[str, str]) -> Path:
        """Where it is once it was built: below XDG_CACHE_HOME, or ~/.cache."""
        cache = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "handrail"
        return cache / f"{self.name}-{self.version}" / self.package.rpartition("/")[2]

    def present(self, env: Mapping[str, str]) -> Path | None:
        """The program where it is there already."""
        found = shutil.which(self.name, path=env.get("PATH"))
        if found:
            return Path(found)
        cached = self.cached(env)
        return cached if cached.is_file() else None

    def get(self, env: Mapping[str, str], say: Callable[[str], None]) -> Path:
        """The program, built if it has to be; that takes a while, and `say` tells how it goes.

        Raises NoGo, and HandrailError when it can't be built.
        """
        found = self.present(env)
        if found is not None:
            return found
        go = shutil.which("go", path=os.pathsep.join([env.get("PATH", os.defpath), _USUAL_PLACE]))
        if go is None:
            raise NoGo(
                f"there is no {self.name} on the PATH and no Go to build it with: install Go (https://go.dev/dl), or put "
                f"a {self.name} on the PATH"
            )
        target = self.cached(env)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.with_name("lock").open("ab") as lock:
                say(f"building {self.name} {self.version} from its Go module: {self.takes}, this one time")
                fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be building it; then it is there afterwards
                if not target.is_file():
                    for left in target.parent.glob(f"{_NEW}*"):  # a build that was killed could not remove its own
                        shutil.rmtree(left, ignore_errors=True)
                    self._build(go, target, env, say)
        except OSError as error:
            raise HandrailError(
                f"{self.name} can't be built into {target.parent}: {error.strerror or error}"
            ) from error
        return target

    def _build(self, go: str, target: Path, env: Mapping[str, str], say: Callable[[str], None]) -> None:
        with tempfile.TemporaryDirectory(prefix=_NEW, dir=target.parent) as new:
            where = f"{self.module}@{self.version}"
            # Modules are fetched outside of any module of the current folder.
            told = self._run([go, "mod", "download", "-json", where], Path(new), env, say)
            folder = Path(json.loads(told)["Dir"])
            program = Path(new) / target.name
            self._run([go, "build", "-mod=readonly", "-o", str(program), f"./{self.package}"], folder, env, say)
            program.replace(target)  # whole or not at all

    def _run(self, command: list[str], folder: Path, env: Mapping[str, str], say: Callable[[str], None]) -> str:
        """What the command says. Tied to this thread's life, however that ends.

        Raises HandrailError with its own words when it fails.
        """
        began = time.monotonic()
        clean = {**env, "GOFLAGS": "", "GOWORK": "off"}
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                processes.tied(command),
                cwd=folder,
                env=clean,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            with process:
                while True:
                    try:
                        told, _ = process.communicate(timeout=SAY_EVERY_S)
                        break
                    except subprocess.TimeoutExpired:
                        passed = time.monotonic() - began
                        if passed > BUILD_S:
                            process.kill()
                        say(f"building {self.name}: {passed:.0f} s so far")
                    except BaseException:
                        process.kill()
                        raise
            if process.returncode:
                errors.seek(0)
                why = (errors.read().strip() or told.strip())[-_TOLD:]
                raise HandrailError(
                    f"{self.name} can't be built ({' '.join(command[1:3])}: {process.returncode}): {why}"
                )
        return told
