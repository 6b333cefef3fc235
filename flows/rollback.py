"""Flow `rollback`: moves alias `champion` back."""

from typing import Any, Literal

from prefect import flow

from flows import judge_stages
from flows.common import publish, stage_task


@flow(name="rollback")
def rollback(
    to: str = "", model: Literal["spa3r-encoder", "spa3-vlm"] = "spa3r-encoder"
) -> dict[str, Any]:
    """Moves `champion` to the version before it and records the move.

    Args:
        to: another version that was champion once; empty: the one that the champion replaced.
        model: whose champion.
    """
    return publish(stage_task(judge_stages.rollback)(to, model))
