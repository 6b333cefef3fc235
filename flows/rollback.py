"""Flow `rollback`: moves alias `champion` back."""

from typing import Any

from prefect import flow

from flows import judge_stages
from flows.common import publish, stage_task


@flow(name="rollback")
def rollback(to: str = "") -> dict[str, Any]:
    """Moves `champion` to the version before it and records the move.

    Args:
        to: another version that was champion once; empty: the one that the champion replaced.
    """
    return publish(stage_task(judge_stages.rollback)(to))
