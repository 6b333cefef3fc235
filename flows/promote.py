"""Flow `promote`: moves alias `champion` to the candidate if the gate holds."""

from typing import Any, Literal

from prefect import flow

from flows import judge_stages
from flows.common import publish, stage_task


@flow(name="promote")
def promote(
    model: Literal["spa3r-encoder", "spa3-vlm"] = "spa3r-encoder",
    suite: str = "vsi-bench",
    tasks: list[str] | None = None,
) -> dict[str, Any]:
    """Reads the candidate's logged evaluation, compares it with the champion's, and decides.

    An encoder must beat the five controls, and the champion on the same held-out scenes by more
    than the bootstrap interval; Spa3-VLM the three controls, and the champion on the same
    questions. The verdict is recorded either way; when the gate does not hold, `champion` stays
    where it is and the flow ends with the reason.

    Args:
        model: whose candidate.
        suite: of spa3-vlm: whose questions decide.
        tasks: of spa3-vlm: which of the suite's tasks; none: the numerical ones, or all where the
            suite has none.
    """
    return publish(stage_task(judge_stages.promote)(model, suite=suite, tasks=tuple(tasks or ())))
