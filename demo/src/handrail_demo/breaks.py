"""Deliberately broken builds: the sources are copied, a patch is applied to the copy, and the services run from there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from handrail_demo.errors import DemoError

PATCHES = Path(__file__).parent / "patches"


def names() -> list[str]:
    """The breaks that there are."""
    return sorted(patch.stem for patch in PATCHES.glob("*.patch"))


def broken_copy(name: str, project: Path, into: Path) -> list[Path]:
    """The folders to put before PYTHONPATH so that services run the broken build. Raises DemoError."""
    patch = PATCHES / f"{name}.patch"
    if not patch.is_file():
        raise DemoError(f"there is no break {name!r}; there are {', '.join(names())}")
    return patched_copy(patch, project, into)


def patched_copy(patch: Path, project: Path, into: Path) -> list[Path]:
    """As broken_copy, with any patch file. Raises DemoError when it does not apply or changes nothing."""
    shutil.rmtree(into, ignore_errors=True)
    sources = [project / "handrail" / "src", *sorted((project / "services").glob("*/src"))]
    for source in sources:
        shutil.copytree(
            source, into / source.relative_to(project), ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    before = _contents(into)
    # Within a repository git would leave out, without a word, what is not below the current folder.
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(into.parent)}
    applied = subprocess.run(
        ["git", "apply", str(patch.absolute())], cwd=into, env=env, capture_output=True, text=True, check=False
    )
    if applied.returncode:
        raise DemoError(f"the patch {patch.name} no longer applies: {applied.stderr.strip()}")
    if _contents(into) == before:
        raise DemoError(f"the patch {patch.name} changed nothing, so the build is not broken")
    return [into / source.relative_to(project) for source in sources]


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*.py")}
