"""Another number of workers carries a run on: the same sequence of global batches, to the end."""

import json
from pathlib import Path

from safetensors.torch import load_file

from spa3r.plain import override
from tests.integration.train_pair import RECIPE, Group

STEPS = {"train.steps": 9, "train.checkpoint_every": 2, "train.batches_per_step": 4}
SHORT = override(RECIPE, STEPS)


def life(run: Path, record: Path, size: int, stop_after: int = 0) -> list[list[str]]:
    """Clips of each batch of a life of the run, in the order of the global sequence."""
    record.mkdir()
    group = Group(run, size=size, recipe=SHORT, stop_after=stop_after, record=record).start()
    assert group.wait() == [0] * size
    of_rank = [(record / f"rank{r}").read_text().splitlines() for r in range(size)]
    shares = zip(*(map(json.loads, lines) for lines in of_rank), strict=True)
    return [batch for share in shares for batch in share]


def test_two_workers_then_one_then_two_see_what_two_see(tmp_path: Path):
    whole = life(tmp_path / "whole", tmp_path / "record", size=2)
    assert len(whole) == 9 * 4
    lives = [
        life(tmp_path / "run", tmp_path / "two", size=2, stop_after=3),
        life(tmp_path / "run", tmp_path / "one", size=1, stop_after=2),
        life(tmp_path / "run", tmp_path / "again", size=2),
    ]
    assert [len(batches) for batches in lives] == [3 * 4, 2 * 4, 4 * 4]
    assert [batch for batches in lives for batch in batches] == whole
    ours, theirs = (
        load_file(tmp_path / name / "encoder" / "model.safetensors") for name in ("run", "whole")
    )
    # The same sums in another order: equal to rounding, and far from where they began.
    assert all(abs(ours[name] - theirs[name]).max() < 1e-3 for name in ours)


def test_a_checkpoint_of_sharded_weights_is_any_ones(tmp_path: Path):
    """Sharded (FSDP2) to step 4, one worker to step 6, sharded again to the end."""
    sharded = override(SHORT, {"train.sharding": "fsdp2", "train.ema": 0.5})
    plain = override(SHORT, {"train.ema": 0.5})
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert Group(run, recipe=sharded, stop_after=4).start().wait() == [0, 0]
    assert Group(run, recipe=plain, size=1, stop_after=2).start().wait() == [0]
    assert Group(run, recipe=sharded).start().wait() == [0, 0]
    assert Group(whole, recipe=plain).start().wait() == [0, 0]
    ours, theirs = (load_file(f / "encoder" / "model.safetensors") for f in (run, whole))
    assert all(abs(ours[name] - theirs[name]).max() < 1e-3 for name in ours)
