"""The CRM: a deal is at a stage. Putting it where it is already is no effect."""

from __future__ import annotations

from pydantic import BaseModel, Field

from handrail_sandbox.operations import Asked, Doing, Operation
from handrail_sandbox.replies import Effect, Reply, problem

SYSTEM = "crm"


class Deal(BaseModel):
    """Where a deal is to be."""

    stage: str = Field(min_length=1, max_length=100)


def _said(asked: Asked) -> dict[str, str]:
    return {"deal_id": asked.path["id"], "stage": asked.model.stage}


def _stage(asked: Asked, doing: Doing) -> str | None:
    row = doing.books.execute("SELECT stage FROM deals WHERE deal_id = ?", (asked.path["id"],)).fetchone()
    return None if row is None else str(row["stage"])


def _put(asked: Asked, doing: Doing) -> Reply:
    if _stage(asked, doing) == asked.model.stage:
        return Reply(200, _said(asked))
    doing.books.execute("INSERT OR REPLACE INTO deals VALUES (?, ?)", (asked.path["id"], asked.model.stage))
    return Reply(200, _said(asked), effects=(Effect(f"stage:{asked.model.stage}", asked.path["id"]),))


def _pretend_to_put(asked: Asked, _call: int) -> Reply:
    return Reply(200, _said(asked))


def _get(asked: Asked, doing: Doing) -> Reply:
    stage = _stage(asked, doing)
    if stage is None:
        return problem(404, f"there is no deal {asked.path['id']!r}")
    return Reply(200, {"deal_id": asked.path["id"], "stage": stage})


OPERATIONS = (
    Operation(
        SYSTEM, "update-deal", "PUT", "/crm/deals/{id}", Deal, lambda asked: asked.path["id"], _put, _pretend_to_put
    ),
    Operation(SYSTEM, "get-deal", "GET", "/crm/deals/{id}", None, lambda asked: asked.path["id"], _get),
)
