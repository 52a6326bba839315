"""Samples: what each contract takes and what it refuses, found by file name.

`samples/<domain>/<event>.v<N>.<case>.pass.json` holds a value that must be taken;
`samples/<domain>/<event>.v<N>.<case>.fail.json` holds {"value": …, "why": "…"}: the value must be refused, and the error
must contain the text of `why`. Bytes are written as {"$bytes": "<hex>"}.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail.contracts.collection import Contracts
from handrail.contracts.jsonform import loads
from handrail.errors import ContractBroken, ContractFileError

FOLDER = "samples"
_NAME = re.compile(r"(?P<contract>.+\.v[1-9][0-9]*)\.(?P<case>[a-z0-9-]+)\.(?P<verdict>pass|fail)\.json")


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample. `why` is None when it must be taken, else a text that must stand in the error."""

    file: Path
    contract: str
    case: str
    value: Any
    why: str | None


def find_samples(contracts: Path) -> list[Sample]:
    """Every sample below `<contracts>/samples`, by name. Raises ContractFileError with all files that are wrong."""
    samples: list[Sample] = []
    problems: list[str] = []
    folder = contracts / FOLDER
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            samples.append(_read(folder, file))
        except (OSError, ValueError) as error:
            problems.append(f"{file}: {error}")
    if problems:
        raise ContractFileError("\n".join(problems))
    return samples


def _read(folder: Path, file: Path) -> Sample:
    match = _NAME.fullmatch(file.relative_to(folder).as_posix())
    if match is None:
        raise ValueError("is not called <domain>/<event>.v<N>.<case>.pass.json or .fail.json")
    content = loads(file.read_bytes())
    if match["verdict"] == "pass":
        return Sample(file, match["contract"], match["case"], content, None)
    if not (isinstance(content, dict) and set(content) == {"value", "why"} and isinstance(content["why"], str)):
        raise ValueError('a fail sample is {"value": …, "why": "a text of the error"}')
    if not content["why"].strip():
        raise ValueError('"why" must be a text of the error that is expected')
    return Sample(file, match["contract"], match["case"], content["value"], content["why"])


def problem_of(contracts: Contracts, sample: Sample) -> str | None:
    """What is wrong with a sample, in words, or None."""
    try:
        _take(contracts, sample)
    except ContractFileError as error:
        return f"{sample.file}: {error}"
    except ContractBroken as error:
        if sample.why is None:
            return f"{sample.file}: must be taken, but is refused: {error}"
        if sample.why not in str(error):
            return f"{sample.file}: is refused for another reason than {sample.why!r}: {error}"
        return None
    return f"{sample.file}: must be refused because of {sample.why!r}, but is taken" if sample.why else None


def _take(contracts: Contracts, sample: Sample) -> None:
    """What ingest does with it. Raises ContractBroken, also when it does not come back as it was."""
    data = contracts.encode(sample.contract, sample.value)
    contract, value = contracts.decode(data, sample.contract)
    contracts.check(contract, value)
    differing = [name for name in sample.value if value[name] != sample.value[name]]
    if differing:
        raise ContractBroken(f"{', '.join(differing)} decodes to another value than was encoded", field=differing[0])


def without_pass(contracts: Contracts, samples: list[Sample]) -> list[str]:
    """Contracts that no sample shows, in words."""
    shown = {sample.contract for sample in samples if sample.why is None}
    missing = [name for name in contracts.names() if name not in shown]
    return [f"{name}: has no sample; write {FOLDER}/{name}.<case>.pass.json" for name in missing]
