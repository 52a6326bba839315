"""The flows and systems of a project, read whole: every problem of every file is found before one is reported."""

from __future__ import annotations

from collections.abc import Mapping as Values
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from handrail.contracts import Contracts
from handrail.errors import FlowError, Problem
from handrail.flow import model, system
from handrail.flow.bound import Flow
from handrail.flow.checking import Checked, World, bind
from handrail.flow.lock import LOCK, broken, read_lock
from handrail.flow.model import FlowFile
from handrail.flow.reading import Document, Loc, did_you_mean, read_yaml, validate
from handrail.flow.system import System, placeholders

M = TypeVar("M", bound=BaseModel)


class Flows:
    """Every version of every flow of a project, and the systems that they call. Immutable."""

    def __init__(self, flows: Values[tuple[str, int], Flow], systems: Values[str, System], checked: Checked) -> None:
        self._flows = dict(sorted(flows.items()))
        self.systems = systems
        self.warnings: tuple[Problem, ...] = tuple(checked.warnings)

    @classmethod
    def load(cls, flows: Path, systems: Path, contracts: Contracts) -> Flows:
        """Read `flows/<flow>/v<N>/flow.yaml` and `systems/*.yaml`, and check them against each other.

        Raises FlowError with every problem: what, file, line, and what to write instead. What doesn't refuse a flow but
        should be mended is in `warnings`.
        """
        checked = Checked()
        world = World(contracts, _systems(systems, contracts, checked))
        found = _flows(flows, world, checked)
        if checked.problems:
            raise FlowError(sorted(set(checked.problems), key=lambda each: (each.file, each.line or 0, each.what)))
        return cls(found, world.systems, checked)

    def names(self) -> list[str]:
        """Every flow's name, sorted."""
        return sorted({name for name, _ in self._flows})

    def versions(self, flow: str) -> list[int]:
        """The versions of a flow that are here, oldest first."""
        return [version for name, version in self._flows if name == flow]

    def get(self, flow: str, version: int) -> Flow | None:
        """That version; None when this build does not have it."""
        return self._flows.get((flow, version))

    def newest(self, flow: str) -> Flow:
        """The highest version. Raises FlowError when there is no such flow."""
        versions = self.versions(flow)
        if not versions:
            raise FlowError([Problem("flows", None, f"there is no flow `{flow}`", did_you_mean(flow, self.names()))])
        return self._flows[flow, versions[-1]]


def _systems(folder: Path, contracts: Contracts, checked: Checked) -> dict[str, System]:
    found = {}
    if not folder.is_dir():
        checked.problems.append(Problem(folder.name, None, "there is no folder of systems", f"make {folder}"))
    for path in sorted(folder.glob("*.yaml")):
        file = f"{folder.name}/{path.name}"
        document = read_yaml(path, file, checked.problems)
        read = _read(System, document, system.NOT_YET, checked.problems) if document else None
        if document is None or read is None:
            continue
        if read.name != path.stem:
            what = f"the system `{read.name}` stands in {path.name}"
            checked.problems.append(document.problem(("system",), what, f"name the file {read.name}.yaml"))
        _operations(read, document, contracts, checked.problems)
        found[read.name] = read
    return found


def _operations(read: System, document: Document, contracts: Contracts, problems: list[Problem]) -> None:
    """Contracts that are there, and paths that the contract can fill."""
    for name, operation in read.operations.items():
        for key, contract in (("request", operation.request), ("response", operation.response)):
            if contract and contract not in contracts:
                what = f"there is no contract {contract}"
                problems.append(
                    document.problem(("operations", name, key), what, did_you_mean(contract, contracts.names()))
                )
        if operation.request is None or operation.request not in contracts:
            continue
        known = [each.name for each in contracts[operation.request].fields]
        for place in placeholders(operation.template):
            root, _, wanted = place.partition(".")
            if root == "request" and wanted not in known:
                what = f"{operation.request} has no field `{wanted}`"
                problems.append(document.problem(("operations", name, "path"), what, did_you_mean(wanted, known)))


def _flows(folder: Path, world: World, checked: Checked) -> dict[tuple[str, int], Flow]:
    problems = checked.problems
    found: dict[tuple[str, int], Flow] = {}
    if not folder.is_dir():
        problems.append(Problem(folder.name, None, "there is no folder of flows", f"make {folder}"))
        return found
    if (folder / "definitions.yaml").exists():
        problems.append(
            Problem(f"{folder.name}/definitions.yaml", None, "this build does not execute `definitions.yaml` yet")
        )
    lock_file = f"{folder.name}/{LOCK}"
    released = read_lock(folder, lock_file, problems)
    problems.extend(broken(folder, released, lock_file))
    for version in sorted(folder.glob("*/*/")):
        shown = f"{folder.name}/{version.parent.name}/{version.name}"
        if version.parent.name.startswith((".", "_")) or version.name.startswith((".", "_")):
            continue
        flow = _version(version, shown, world, checked)
        if flow is None:
            continue
        found[flow.name, flow.version] = flow
        if (flow.name, flow.version) not in released:
            what = f"{flow.name} v{flow.version} is not released: it may still change"
            instead = f"before real runs use it: `handrail flow release {flow.name}`"
            checked.warnings.append(Problem(f"{shown}/flow.yaml", None, what, instead))
    return found


def _version(folder: Path, shown: str, world: World, checked: Checked) -> Flow | None:
    document = read_yaml(folder / "flow.yaml", f"{shown}/flow.yaml", checked.problems)
    read = _read(FlowFile, document, model.NOT_YET, checked.problems) if document else None
    return bind(read, document, folder, world, checked) if document and read else None


def _read(kind: type[M], document: Document, not_yet: tuple[Loc, ...], problems: list[Problem]) -> M | None:
    """The document as a model. Keys that the design names and this build lacks are told apart from unknown ones."""
    refused: list[Loc] = []
    data = _without(document.data, (), not_yet, refused)
    for loc in refused:
        name = ".".join(str(part) for part in loc if isinstance(part, str))
        problems.append(document.problem(loc, f"this build does not execute `{name}` yet", "leave it out"))
    found: list[Problem] = []
    read = validate(kind, document, found, data)
    # What lacks a part that was just refused is not to blame for the gap.
    gaps = {document.line(loc[:-1]) for loc in refused}
    problems.extend(each for each in found if each.line not in gaps)
    return None if refused else read


def _without(data: Any, loc: Loc, not_yet: tuple[Loc, ...], refused: list[Loc]) -> Any:
    if isinstance(data, list):
        return [_without(item, (*loc, index), not_yet, refused) for index, item in enumerate(data)]
    if not isinstance(data, dict):
        return data
    kept = {}
    for key, value in data.items():
        here = (*loc, key)
        if any(_matches(here, pattern) for pattern in not_yet):
            refused.append(here)
        else:
            kept[key] = _without(value, here, not_yet, refused)
    return kept


def _matches(loc: Loc, pattern: Loc) -> bool:
    return len(loc) == len(pattern) and all(want in ("*", part) for part, want in zip(loc, pattern, strict=True))
