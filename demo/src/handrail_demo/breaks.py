"""Deliberately broken builds: the sources are copied, a patch is applied to the copy, and the services run from there."""

from __future__ import annotations

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
    shutil.rmtree(into, ignore_errors=True)
    sources = [project / "handrail" / "src", *sorted((project / "services").glob("*/src"))]
    for source in sources:
        shutil.copytree(
            source, into / source.relative_to(project), ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    command = ["git", "apply", "--unsafe-paths", f"--directory={into}", str(patch)]
    applied = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
    if applied.returncode:
        raise DemoError(f"the patch {patch.name} no longer applies: {applied.stderr.strip()}")
    return [into / source.relative_to(project) for source in sources]
