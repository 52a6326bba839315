"""The Python of a flow: transforms and bodies, loaded from the flow's folder by path.

`sys.path` stays as it is, and each version's module has a name of its own in `sys.modules`, so two versions of a flow
can be loaded beside each other. A mapping is pure: the same event gives the same result, or a repeated step would not
repeat its message.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from collections.abc import Mapping as Values
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

from handrail.errors import Failure, Problem
from handrail.flow.reading import did_you_mean

Record = Values[str, Any]
Body = Callable[[Record, Record, Values[str, Record]], Any]


class Mapping:
    """The functions that a flow names."""

    def __init__(self, transform: Callable[[Record], Any], bodies: Values[str, Body], done: Body | None) -> None:
        self._transform = transform
        self._bodies = dict(bodies)
        self._done = done

    def transform(self, event: Record) -> dict[str, Any]:
        """The request that the flow's transform makes of an event. What the function raises goes through."""
        return _record("transform", self._transform(event))

    def body(self, step: str, event: Record, request: Record, responses: Values[str, Record]) -> dict[str, Any]:
        """The body of a step's call: what `with` makes of it, or the request itself."""
        made = self._bodies.get(step)
        return dict(request) if made is None else _record(f"with of {step}", made(event, request, responses))

    def done(self, event: Record, request: Record, responses: Values[str, Record]) -> dict[str, Any] | None:
        """The flow's result; None when it has none. A step finished by hand has no response."""
        return None if self._done is None else _record("done", self._done(event, request, responses))


def _record(what: str, made: Any) -> dict[str, Any]:
    if isinstance(made, dict):
        return made
    raise Failure("bug", f"the mapping's {what} gave a {type(made).__name__}, not a dict")


class Modules:
    """The Python files of one flow version, each loaded once."""

    def __init__(self, folder: Path, shown: str, problems: list[Problem]) -> None:
        self._folder = folder
        self._shown = shown
        self._problems = problems
        self._loaded: dict[str, ModuleType | None] = {}

    def function(self, reference: str, arguments: tuple[str, ...], asked_at: Problem) -> Callable[..., Any] | None:
        """`module:function` that takes `arguments`; None, and a problem at the place that asks for it, when not."""
        module_name, _, name = reference.partition(":")
        if module_name not in self._loaded:
            self._loaded[module_name] = self._load(module_name, asked_at)
        module = self._loaded[module_name]
        if module is None:
            return None
        found = getattr(module, name, None)
        if not callable(found):
            own = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
            self._report(asked_at, f"{module_name}.py has no function `{name}`", did_you_mean(name, own))
            return None
        try:
            inspect.signature(found).bind(*arguments)
        except TypeError:
            self._report(
                asked_at,
                f"`{reference}` must take ({', '.join(arguments)})",
                f"write `def {name}({', '.join(arguments)})`",
            )
            return None
        return found  # type: ignore[no-any-return]

    def _load(self, name: str, asked_at: Problem) -> ModuleType | None:
        path = self._folder / f"{name}.py"
        if not path.is_file():
            self._report(asked_at, f"there is no {name}.py in the flow's folder", f"write {self._shown}/{name}.py")
            return None
        # A name of its own per folder; the digest keeps two checkouts apart.
        digest = blake2b(str(path.absolute()).encode(), digest_size=6).hexdigest()
        module = ModuleType(f"handrail_flow_{digest}_{name}")
        module.__file__ = str(path)
        sys.modules[module.__name__] = module  # dataclasses and typing look their module up
        try:
            # Compiled here, not imported: no .pyc is written into the flow's folder, and none can be stale.
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
        except Exception as error:
            del sys.modules[module.__name__]
            what = f"it can't be loaded: {type(error).__name__}: {error}"
            self._problems.append(Problem(f"{self._shown}/{name}.py", _line(error, path), what))
            return None
        return module

    def _report(self, at: Problem, what: str, instead: str) -> None:
        self._problems.append(Problem(at.file, at.line, what, instead))


def _line(error: Exception, path: Path) -> int | None:
    if isinstance(error, SyntaxError):
        return error.lineno
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return frames[-1].lineno if frames else None
