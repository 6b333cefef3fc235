"""Flow `promote`: moves alias `champion` to the candidate if the field gate holds."""

from typing import Any

from prefect import flow

from flows import judge_stages
from flows.common import publish, stage_task


@flow(name="promote")
def promote() -> dict[str, Any]:
    """Reads the candidate's logged evaluation, decides, and tags the version with the verdict.

    When the gate does not hold, `champion` stays where it is and the flow ends with the reason.
    """
    return publish(stage_task(judge_stages.promote)())
