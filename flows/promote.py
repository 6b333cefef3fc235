"""Flow `promote`: moves alias `champion` to the candidate if the gate holds."""

from typing import Any

from prefect import flow

from flows import judge_stages
from flows.common import publish, stage_task


@flow(name="promote")
def promote() -> dict[str, Any]:
    """Reads the candidate's logged evaluation, compares it with the champion's, and decides.

    The candidate must beat the five controls, and the champion on the same held-out scenes by more
    than the bootstrap interval. The verdict is recorded either way; when the gate does not hold,
    `champion` stays where it is and the flow ends with the reason.
    """
    return publish(stage_task(judge_stages.promote)())
