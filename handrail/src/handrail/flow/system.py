"""How an outside system is called (`systems/<system>.yaml`): addresses, operations, what its answers mean.

To swap system A for B, write another file that has the same operations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, Field, PlainSerializer, PrivateAttr, field_validator, model_validator

from handrail.errors import ConfigError, Failure
from handrail.flow.model import ContractName, Duration, Name, Text
from handrail.flow.reading import Loc, Strict, Wrong
from handrail.flow.secrets import expand, has_reference, malformed, with_defaults

StatusClass = Literal["transient", "rate_limited", "unknown_outcome", "business", "config", "bug"]
Status = Annotated[int, Field(ge=100, le=599)]

DEFAULT_ERRORS: Mapping[str, StatusClass] = {
    "401": "config",
    "403": "config",
    "407": "config",
    "408": "unknown_outcome",
    "425": "transient",
    "429": "rate_limited",
    "503": "transient",
    "3xx": "config",  # redirects are never followed
    "4xx": "business",
    "5xx": "unknown_outcome",
}
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PLACE = re.compile(r"(request|event)\.([A-Za-z_][A-Za-z0-9_]*)")
_DOUBLED = re.compile(r"(?<!:)//+")
_STATUS = re.compile(r"[1-5](?:[0-9]{2}|xx)")

NOT_YET: tuple[Loc, ...] = (
    ("auth", "oauth2"),
    ("breaker",),
    ("limits", "rate"),
    ("limits", "limit_by"),
    ("connector",),
    ("operations", "*", "python"),
)
"""Keys that the design names and that this build refuses to accept silently; `*` stands for every item."""


def _list(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


class Operation(Strict):
    """One thing that a system can be asked to do.

    `template` is the path, with `{request.field}` and `{event.field}`. `request` is the contract of the JSON body,
    `response` of the JSON answer. `absent` are the statuses by which a question is answered with "there is none".
    """

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    template: Text = Field(alias="path")
    request: ContractName | None = None
    response: ContractName | None = None
    absent: Annotated[frozenset[Status], BeforeValidator(_list), PlainSerializer(sorted)] = frozenset()

    @property
    def safe(self) -> bool:
        """It changes nothing, so it may be repeated at will (RFC 9110, section 9.2.1)."""
        return self.method in _SAFE_METHODS

    @field_validator("template")
    @classmethod
    def _readable(cls, value: str) -> str:
        if not value.startswith("/") or value.startswith("//"):
            raise Wrong(f"{value!r} is not a path below the base URL", "begin it with one /")
        for name in placeholders(value):
            if not _PLACE.fullmatch(name):
                raise Wrong(f"{{{name}}} can't be filled", "write {request.<field>} or {event.<field>}")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Operation:
        if self.absent and not self.safe:
            raise Wrong("`absent` is for questions (GET, HEAD) only", "leave it out")
        return self

    def path(self, request: Mapping[str, Any], event: Mapping[str, Any]) -> str:
        """The path and query with every value quoted, so that no value can change where the call goes.

        Raises Failure("contract") when a value is missing, empty, not plain, or is `.` or `..`.
        """
        made = []
        for text, name, _, _ in Formatter().parse(self.template):
            made.append(text)
            if name is not None:
                root, _, field = name.partition(".")
                made.append(_quoted(name, field, (request if root == "request" else event).get(field)))
        return "".join(made)


def placeholders(template: str) -> list[str]:
    """The names in braces. Raises Wrong when braces do not match."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise Wrong(f"{template!r}: {error}", "write {request.<field>}") from None
    if any(name is not None and (spec or conversion) for _, name, spec, conversion in parts):
        raise Wrong(f"{template!r} formats a value", "write {request.<field>} and nothing more")
    return [name for _, name, _, _ in parts if name is not None]


def _quoted(name: str, field: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int)) or value in ("", ".", ".."):
        raise Failure("contract", f"{name} can't be put into a path: it is missing, empty or not plain", field=field)
    try:
        return quote(str(value), safe="")
    except UnicodeEncodeError:
        raise Failure("contract", f"{name} can't be put into a path: it is not Unicode text", field=field) from None


class Header(Strict):
    """A secret in a header: `{name: Authorization, value: "Bearer ${env:TOKEN}"}`."""

    name: Text
    value: Text


class Basic(Strict):
    """RFC 7617."""

    user: Text
    password: Text


class Auth(Strict):
    """By a header or by user and password; both take their secrets from the environment."""

    header: Header | None = None
    basic: Basic | None = None

    @model_validator(mode="after")
    def _by_reference(self) -> Auth:
        if (self.header is None) == (self.basic is None):
            raise Wrong("`auth` must have either `header` or `basic`", "write `header: {name: …, value: …}`")
        secret = self.header.value if self.header else self.basic.password if self.basic else ""
        if not has_reference(secret) or malformed(secret):
            raise Wrong("a secret stands in the file, or its reference is not whole", "write ${env:NAME}")
        return self


class Limits(Strict):
    """`concurrency`: calls in flight at once, for each process of the stage."""

    concurrency: int = Field(default=32, ge=1, le=1_000)


class Deadlines(Strict):
    """How long to wait, in ms: for the connection, and for the whole answer."""

    connect_ms: Duration = Field(default=1_000, alias="connect")
    total_ms: Duration = Field(default=10_000, alias="total")


class Allow(Strict):
    """Addresses that are refused unless allowed here."""

    loopback: bool = False
    private: bool = False


class System(Strict):
    """One outside system. `base_url` and `auth` still hold `${env:…}`; `resolved` fills them in."""

    name: Name = Field(alias="system")
    people: dict[str, Text] = Field(default_factory=dict)
    purpose: Text | None = None
    base_url: Text
    auth: Auth | None = None
    allow: Allow = Allow()
    operations: dict[Name, Operation] = Field(min_length=1)
    errors: dict[str, StatusClass] = Field(default_factory=dict)
    idempotency: Literal["honoured", "ignored"] = "ignored"
    conclusive: bool = False
    settle_ms: Duration = Field(default=1_000, alias="settle")
    deadlines: Deadlines = Deadlines()
    limits: Limits = Limits()

    _classes: dict[str, StatusClass] = PrivateAttr(default_factory=dict)

    @field_validator("errors", mode="before")
    @classmethod
    def _statuses(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for key in value:
            if not _STATUS.fullmatch(str(key)):
                raise Wrong(f"`{key}` is not a status", "write 409 or 5xx")
        return {str(key): each for key, each in value.items()}

    @field_validator("base_url")
    @classmethod
    def _a_url(cls, value: str) -> str:
        if malformed(value):
            raise Wrong(f"{value!r} has a reference that is not whole", "write ${env:NAME} or ${env:NAME:-default}")
        # Where a reference has no default, only what the environment says can be checked, in `resolved`.
        guess = with_defaults(value)
        if not _is_base_url(guess if "://" in guess else f"http://{guess}" if value.startswith("${") else guess):
            raise Wrong(f"{value!r} is not a base URL", "write https://host/path, without user, query and fragment")
        return value

    def model_post_init(self, _context: Any, /) -> None:
        """The error mapping is laid over the defaults once."""
        self._classes.update({**DEFAULT_ERRORS, **self.errors})

    def classify(self, status: int, *, safe: bool = False) -> str | None:
        """The error class of an HTTP status; None: it went well.

        `safe`: the call was a question, so that a failure after sending leaves nothing unknown and is transient.
        """
        if 200 <= status < 300:
            return None
        found: str = self._classes.get(str(status)) or self._classes.get(f"{status // 100}xx") or "unknown_outcome"
        return "transient" if safe and found == "unknown_outcome" else found

    def resolved(self, env: Mapping[str, str]) -> System:
        """The same system with addresses and secrets from the environment. Raises ConfigError for one not set."""
        auth = self.auth
        if auth and auth.header:
            filled = auth.header.model_copy(update={"value": expand(auth.header.value, env)})
            auth = auth.model_copy(update={"header": filled})
        if auth and auth.basic:
            user, password = expand(auth.basic.user, env), expand(auth.basic.password, env)
            auth = auth.model_copy(update={"basic": auth.basic.model_copy(update={"user": user, "password": password})})
        base_url = expand(self.base_url, env)
        if not _is_base_url(base_url):
            raise ConfigError(f"system {self.name}: base_url is {base_url!r} here; it must be https://host/path")
        return self.model_copy(update={"base_url": _DOUBLED.sub("/", base_url).rstrip("/"), "auth": auth})


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and port_is_right
