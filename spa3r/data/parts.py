"""From what is known of each clip to a batch; a poisoned clip keeps its place, as zeros.

Legend: B clips, K of them whole, V views, T target views, N tokens per view, D width.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from spa3r import schema
from spa3r.config import TeacherSpec
from spa3r.data.answers import frame_widths
from spa3r.data.batch import ClipBatch
from spa3r.data.buffers import Buffers
from spa3r.data.clips import Clip
from spa3r.data.quantise import loop_dtype
from spa3r.errors import DamageError, ShardError

Views = Literal["all", "targets"]
"""Of which views the losses are asked: "targets" leaves the per-frame tokens of context views zero,
and their depth too, which then is nowhere valid; all else is there as ever."""
Poisoned = Literal["stop", "drop"]
"""What becomes of a clip that is damaged or not finite: see DataConfig.poisoned."""
T = TypeVar("T")


def sieve(
    clips: Sequence[Clip], work: Callable[[Clip], T], poisoned: Poisoned
) -> tuple[list[T], dict[int, str]]:
    """What `work` gives of the clips that are whole, in order; what is wrong with the others, by
    their place.

    Raises:
        DamageError: of the first that is not, naming the clip, where poison stops the run.
    """
    whole: list[T] = []
    dropped: dict[int, str] = {}
    for place, clip in enumerate(clips):
        try:
            whole.append(work(clip))
        except DamageError as error:
            line = str(error) if clip.id in str(error) else f"clip {clip.id}: {error}"
            if poisoned == "stop":
                raise DamageError(line) from error
            dropped[place] = line
    return whole, dropped


def is_finite(x: Tensor) -> Tensor:
    """() bool: no NaN and no infinity. The extremes are NaN if anything is, and it takes far less
    time to find them than to ask every number."""
    return torch.stack(x.aminmax()).isfinite().all()


def check_finite(tensors: Mapping[str, Tensor], where: str, cure: str) -> None:
    """Raises DamageError, `where` first and `cure` last, if a floating-point tensor has NaN or
    inf."""
    for name, x in tensors.items():
        if x.is_floating_point() and not bool(is_finite(x)):
            raise DamageError(f"{where}: {name} is not finite; {cure}")


def common_grid(grids: Iterable[tuple[int, int]], clips: Sequence[Clip]) -> tuple[int, int]:
    """Raises ShardError unless all clips have one grid."""
    found = sorted(set(grids))
    if len(found) != 1:
        raise ShardError(
            f"clips {clips[0].id} .. {clips[-1].id} have patch grids {found}: one batch needs one;"
            " take the batches of spa3r/data/order.py"
        )
    return found[0]


class Parsed(NamedTuple):
    """What was read of one clip."""

    tensors: dict[str, Tensor]
    """By the names of spa3r/schema.py, but for the frames'."""
    frames: list[dict[str, Tensor]]
    """Tokens (N, D) by kind, of the views that are asked."""


def gather(parts: Sequence[Parsed], buffers: Buffers) -> dict[str, Tensor]:
    """Clips as the tensors of a batch (`whole` of `to_batch`); {} without clips."""
    if not parts:
        return {}
    whole = {
        name: buffers.stack([part.tensors[name] for part in parts]) for name in parts[0].tensors
    }
    frames = [frame for part in parts for frame in part.frames]
    for kind in frames[0] if frames else ():
        stacked_FND = buffers.stack([frame[kind] for frame in frames])
        whole[kind] = stacked_FND.unflatten(0, (len(parts), -1))
    return whole


def stack(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of clips, by name, as tensors of a batch; {} without clips."""
    return {name: torch.stack([part[name] for part in parts]) for name in (parts or [{}])[0]}


def to_batch(
    clips: Sequence[Clip],
    grid_hw: tuple[int, int],
    whole: Mapping[str, Tensor],
    dropped: Mapping[int, str],
    spec: TeacherSpec,
    views: Views,
    device: torch.device | str = "cpu",
    buffers: Buffers | None = None,
) -> ClipBatch:
    """A batch of clips, some of which may be poisoned.

    Args:
        whole: names of spa3r/schema.py -> tensors (K, ...) of the clips that are not, in order and
            in the loop's dtype; per-frame tokens are those of the views that `views` says, (K, T,
            N, D) for "targets". The encoder's input may be left out where it is the context views'
            tokens.
        device: of the batch.
        buffers: where the encoder's input is put if it is not given.
    """
    if dropped:
        whole = _spread(clips, grid_hw, whole, dropped, spec, views, device)
    geo_BVND, valid_BVN = whole[schema.GEO_TOKENS], whole[schema.PATCH_VALID]
    depth_BVN = whole[schema.PATCH_DEPTH]
    is_target_BV = torch.tensor([clip.is_target for clip in clips])
    context_BCND = whole.get(schema.GEO_CONTEXT)
    if context_BCND is None:
        # Equal counts of context views: the selection keeps its shape.
        context_BCND = _of_views(geo_BVND, ~is_target_BV, buffers)
    tokens = {kind: whole[kind] for kind in frame_widths(spec)}
    if views == "targets":
        asked_BV1 = is_target_BV.to(geo_BVND.device)[..., None]
        depth_BVN, valid_BVN = depth_BVN * asked_BV1, valid_BVN & asked_BV1
        tokens = {kind: _in_all_views(x, is_target_BV) for kind, x in tokens.items()}
    return ClipBatch(
        clips=tuple(clips),
        grid_hw=grid_hw,
        is_target_BV=is_target_BV.to(geo_BVND.device),
        geo_BVND=geo_BVND,
        context_BCND=context_BCND,
        sem_BVND=tokens.get(schema.SEM_TOKENS),
        lang_BVND=tokens.get(schema.LANG_TOKENS),
        camera_from_world_BV44=whole[schema.CAMERA_FROM_WORLD],
        K_BV33=whole[schema.INTRINSICS],
        depth_BVN=depth_BVN,
        valid_BVN=valid_BVN,
        dropped=tuple(dropped[place] for place in sorted(dropped)),
    )


def asked_views(clip: Clip, views: Views) -> list[int]:
    """Indices of the views whose per-frame tokens are needed."""
    return [v for v, target in enumerate(clip.is_target) if target or views == "all"]


def _of_views(x_BVND: Tensor, marked_BV: Tensor, buffers: Buffers | None) -> Tensor:
    """The marked views of each clip, of which all have equally many."""
    if buffers is not None:
        chosen = buffers.stack([x_BVND[b, v] for b, v in marked_BV.nonzero().tolist()])
    else:
        scene, view = (index.to(x_BVND.device) for index in marked_BV.nonzero(as_tuple=True))
        chosen = x_BVND[scene, view]
    return chosen.unflatten(0, (len(marked_BV), -1))


def _in_all_views(x_BTND: Tensor, is_target_BV: Tensor) -> Tensor:
    """Tokens of the target views in their places, zeros elsewhere."""
    x_BVND = x_BTND.new_zeros(*is_target_BV.shape, *x_BTND.shape[2:])
    scene, view = (index.to(x_BTND.device) for index in is_target_BV.nonzero(as_tuple=True))
    x_BVND[scene, view] = x_BTND.flatten(0, 1)
    return x_BVND


def _spread(
    clips: Sequence[Clip],
    grid_hw: tuple[int, int],
    whole: Mapping[str, Tensor],
    dropped: Mapping[int, str],
    spec: TeacherSpec,
    views: Views,
    device: torch.device | str,
) -> dict[str, Tensor]:
    """Whole clips in their places; blank ones, with a camera that a model can take, in the rest."""
    blank = _blank(clips[0], grid_hw, spec, views)
    places = [place for place in range(len(clips)) if place not in dropped]
    kept = torch.tensor(places, dtype=torch.long, device=device)
    spread = {}
    for name, x in blank.items():
        spread[name] = x.to(device).expand(len(clips), *x.shape).clone()
        if name in whole:
            spread[name][kept] = whole[name]
    return spread


def _blank(
    clip: Clip, grid_hw: tuple[int, int], spec: TeacherSpec, views: Views
) -> dict[str, Tensor]:
    """The tensors of one clip of which nothing is known."""
    count, patches, dtype = clip.num_views, math.prod(grid_hw), loop_dtype(spec.dtype)
    height, width = (side * spec.patch_size for side in grid_hw)
    K_33 = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]])
    blank = {
        schema.GEO_TOKENS: torch.zeros(count, patches, spec.width, dtype=dtype),
        schema.CAMERA_FROM_WORLD: torch.eye(4).expand(count, 4, 4),
        schema.INTRINSICS: K_33.expand(count, 3, 3),
        schema.PATCH_DEPTH: torch.zeros(count, patches),
        schema.PATCH_VALID: torch.zeros(count, patches, dtype=torch.bool),
    }
    if spec.passes == "two_pass":
        shape = (clip.num_context, patches, spec.width)
        blank[schema.GEO_CONTEXT] = torch.zeros(shape, dtype=dtype)
    asked = len(asked_views(clip, views))
    for kind, size in frame_widths(spec).items():
        blank[kind] = torch.zeros(asked, patches, size, dtype=dtype)
    return blank
