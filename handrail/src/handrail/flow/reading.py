"""YAML with the line of every key and value, and a model's complaints as problems with a place.

Only the YAML that configuration needs: one document, no aliases, and of the plain words only `true`, `false`, `null`
and decimal numbers mean something else than themselves (so `no`, `08:00` and `2027-01-31` stay text).
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError
from pydantic_core import ErrorDetails

from handrail.errors import Problem

Loc = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """The base of everything that is read from a file: unknown keys are refused, nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_alias=True, validate_by_name=False)


class Wrong(ValueError):
    """A value is wrong, and we know what to write instead."""

    def __init__(self, what: str, instead: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.instead = instead


@dataclass(frozen=True)
class Document:
    """A file as data. `keys` and `texts` say where: the line of a key, and the first line of a value's text."""

    file: str
    data: Any
    keys: Mapping[Loc, int]
    texts: Mapping[Loc, int]

    def line(self, loc: Loc) -> int | None:
        """The line of the key at `loc`, or of the nearest thing around it."""
        return next((self.keys[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in self.keys), None)

    def text_line(self, loc: Loc) -> int | None:
        """The line where the value at `loc` begins: a block scalar begins below its key."""
        return self.texts.get(loc, self.line(loc))

    def problem(self, loc: Loc, what: str, instead: str = "") -> Problem:
        return Problem(self.file, self.line(loc), what, instead)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the few implicit types of YAML 1.2's core schema that configuration needs."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9][0-9_]*)$"), list("-0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^-?[0-9]+\.[0-9]+$"), list("-0123456789"))


def read_yaml(path: Path, file: str, problems: list[Problem]) -> Document | None:
    """The file as data with lines; None, and one more problem, when it can't be read. `file` is how to name it."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=_Loader)
    except FileNotFoundError:
        problems.append(Problem(file, None, "there is no such file"))
        return None
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(file, None, f"it can't be read: {error}"))
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.append(Problem(file, mark.line + 1 if mark else None, f"it is not YAML: {error.problem or error}"))
        return None
    except yaml.YAMLError as error:
        problems.append(Problem(file, None, f"it is not YAML: {error}"))
        return None
    if node is None:
        problems.append(Problem(file, 1, "the file is empty"))
        return None
    builder = _Builder(file)
    data = builder.build(node, ())
    problems.extend(builder.problems)
    return None if builder.problems else Document(file, data, builder.keys, builder.texts)


class _Builder:
    """Turns nodes into data and remembers their lines."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.keys: dict[Loc, int] = {(): 1}
        self.texts: dict[Loc, int] = {}
        self._seen: set[int] = set()
        self._scalars = yaml.constructor.SafeConstructor()

    def build(self, node: yaml.Node, loc: Loc) -> Any:
        line = node.start_mark.line + 1
        self.keys.setdefault(loc, line)
        self.texts[loc] = line + 1 if getattr(node, "style", None) in ("|", ">") else line
        if id(node) in self._seen:
            return self._refuse(line, "an alias (*name) stands here", "write the value out")
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*loc, index)) for index, item in enumerate(node.value)]
        if node.tag.removeprefix("tag:yaml.org,2002:") not in ("str", "bool", "null", "int", "float"):
            return self._refuse(line, f"the tag {node.tag} is not known here", "leave it out")
        return self._scalars.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(line, "a key must be a word or a number")
                continue
            key = self._scalars.construct_object(key_node)
            if key in made:
                self._refuse(line, f"`{key}` stands here twice", "keep one of the two")
            self.keys[(*loc, key)] = line
            made[key] = self.build(value_node, (*loc, key))
        return made

    def _refuse(self, line: int, what: str, instead: str = "") -> None:
        self.problems.append(Problem(self.file, line, what, instead))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean x?`, or what there is when nothing is near."""
    names = list(known)
    near = get_close_matches(word, names, 1, 0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"there is {', '.join(names)}" if names else ""


def validate(model: type[M], document: Document, problems: list[Problem], data: Any = None) -> M | None:
    """The document as `model`; None, and every complaint as a problem, when it is not valid.

    `data` stands in for the document's own data when a part was taken out before.
    """
    try:
        return model.model_validate(document.data if data is None else data)
    except ValidationError as error:
        problems.extend(_problem(model, document, each) for each in error.errors())
        return None


def _problem(model: type[BaseModel], document: Document, error: ErrorDetails) -> Problem:
    loc: Loc = tuple(error["loc"])
    name = ".".join(str(part) for part in loc) or "the file"
    known = _known_keys(model, loc[:-1])
    match error["type"]:
        case "extra_forbidden":
            return document.problem(loc, f"there is no key `{name}`", did_you_mean(str(loc[-1]), known))
        case "missing":
            return document.problem(loc, f"`{name}` is missing", f"write `{loc[-1]}: …` here")
        case "literal_error" | "enum":
            expected = error.get("ctx", {}).get("expected", "")
            return document.problem(loc, f"`{name}` is {error['input']!r}", f"write {expected}")
        case "model_type" | "dict_type" | "model_attributes_type":
            return document.problem(loc, f"`{name}` must have keys of its own, but is {error['input']!r}")
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Wrong):
        return document.problem(loc, f"`{name}`: {cause.what}" if loc else cause.what, cause.instead)
    return document.problem(loc, f"`{name}`: {error['msg'].removeprefix('Value error, ')}")


def _known_keys(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys that may stand at `loc` of `model`."""
    kind: Any = model
    for part in loc:
        kind = _inside(kind, part)
    found = _model(kind)
    return [field.alias or name for name, field in found.model_fields.items()] if found else []


def _inside(kind: Any, part: str | int) -> Any:
    found = _model(kind)
    if found is not None and issubclass(found, RootModel):
        return _inside(found.model_fields["root"].annotation, part)
    if found is not None:
        fields = found.model_fields.items()
        return next((field.annotation for name, field in fields if (field.alias or name) == part), None)
    for arg in _alternatives(kind):
        if get_origin(arg) in (tuple, list, dict) or isinstance(get_origin(arg), type):
            inner = [each for each in get_args(arg) if each is not Ellipsis]
            if inner:
                return inner[-1]
    return None


def _model(kind: Any) -> type[BaseModel] | None:
    return next((arg for arg in _alternatives(kind) if isinstance(arg, type) and issubclass(arg, BaseModel)), None)


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is types.UnionType else (kind,)
