"""One decoder layer with PRoPE against the same layer without positions, and the per-token forms.

python -m benchmarks.prope [--device cpu|cuda] [--json FILE] [--rounds N]

Needs what `torch.compile` needs: a C++ compiler (CPU), or Triton and a C compiler (GPU).

Legend: S sequences, T tokens, N rays, L registers and latents, H heads, C head channels, G groups
of four channels, A image axes (x, y), F frequencies, D width.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common import Times, arguments, interleave, publish, ratio
from spa3r.models.attention import Position
from spa3r.models.cameras import projections
from spa3r.models.prope import DecoderPosition
from spa3r.models.rope import ray_table
from spa3r.models.transformer import Block

WIDTH, HEADS, MLP_RATIO = 768, 12, 4
PREFIX, GRID_HW, PATCH_SIZE = 260, (27, 37), 14  # 4 registers and 256 latents; 518 x 378 pixels
TOKENS = PREFIX + GRID_HW[0] * GRID_HW[1]
SEQUENCES, BASE = 2, 100.0

Layer = Callable[[Tensor, Position | None], Tensor]
"""(S, T, D) to the same, eager or compiled."""

DESCRIPTION = f"""\
One layer of the decoder (width {WIDTH}, {HEADS} heads of {WIDTH // HEADS}, MLP included) on
{SEQUENCES} sequences of {PREFIX} registers and latents and {GRID_HW[0] * GRID_HW[1]} rays, float32,
every side under `torch.compile`; `forward` in inference mode, `step` with the gradients of input
and weights. Baseline: the same layer without position code.

* ours: `DecoderPosition`, which moves the projective half to the registers and latents (a sequence
  has one camera, so between rays it cancels) and turns the rays by cached tables;
* per token: the formula on every ray (queries by P^T, keys and values by P^-1, outputs by P, each
  with its rotation), tables cached, rays cut out by slices: the best such form we could write;
* published: the same formula as the release organises it: rays by a mask that is compared and
  searched on the host in every transform, gathered and copied back, the tables spread over the
  whole sequence anew each time. Its host reads break the compiled graph. Cameras are computed once,
  outside the timing; the release does it in every layer.

`ratio` is ours over the baseline, forward; at most 1.25 is promised. `ratio_eager` is ours over the
baseline without `torch.compile`, which is how the trainer runs. `max_abs_difference_*` compares the
output of attention with ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PerToken:
    """The formula on every ray; a `Position` of attention for whole sequences."""

    image_from_world_S44: Tensor
    world_from_image_S44: Tensor
    cos_N1AF: Tensor
    sin_N1AF: Tensor

    def query(self, q_SRHC: Tensor, rows: slice) -> Tensor:
        return self._apply(q_SRHC, self.image_from_world_S44.mT, self.sin_N1AF)

    def key(self, k_STHC: Tensor) -> Tensor:
        return self._apply(k_STHC, self.world_from_image_S44, self.sin_N1AF)

    def value(self, v_STHC: Tensor) -> Tensor:
        return self._apply(v_STHC, self.world_from_image_S44, self.sin_N1AF)

    def output(self, o_SRHC: Tensor, rows: slice) -> Tensor:
        return self._apply(o_SRHC, self.image_from_world_S44, -self.sin_N1AF)

    def _apply(self, x_STHC: Tensor, left_S44: Tensor, sin_N1AF: Tensor) -> Tensor:
        """`left` on groups of four channels of the rays, their pairs turned by -angle."""
        prefix_SLHC, rays_SNHC = x_STHC.split((PREFIX, len(self.cos_N1AF)), dim=1)
        projective_SNHC, rotary_SNHC = rays_SNHC.chunk(2, dim=-1)
        groups_SNHG4 = projective_SNHC.unflatten(-1, (-1, 4))
        projective_SNHC = torch.einsum("sij,snhgj->snhgi", left_S44, groups_SNHG4).flatten(-2)
        pairs_SNHA2F = rotary_SNHC.unflatten(-1, (2, 2, -1))
        turned_SNHA2F = _turn(pairs_SNHA2F, self.cos_N1AF, sin_N1AF)
        rays_SNHC = torch.cat((projective_SNHC, turned_SNHA2F.flatten(-3)), dim=-1)
        return torch.cat((prefix_SLHC, rays_SNHC), dim=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published(PerToken):
    """The formula as the release organises it."""

    is_ray_T: Tensor

    def _apply(self, x_STHC: Tensor, left_S44: Tensor, sin_N1AF: Tensor) -> Tensor:
        """As PerToken's; the projective half and either axis find the rays for themselves."""
        half = x_STHC.shape[-1] // 2
        projective_STHC, *axes = x_STHC.split((half, half // 2, half // 2), dim=-1)
        rays_N = self._rays(len(x_STHC))
        groups_SNHG4 = projective_STHC.index_select(1, rays_N).unflatten(-1, (-1, 4))
        moved_SNHC = torch.einsum("sij,snhgj->snhgi", left_S44, groups_SNHG4).flatten(-2)
        parts = [projective_STHC.clone().index_copy_(1, rays_N, moved_SNHC)]
        for axis, rotary_STHC in enumerate(axes):
            rays_N = self._rays(len(x_STHC))
            shape = (*x_STHC.shape[:2], 1, half // 4)
            tables = []
            for identity, table_N1AF in ((1.0, self.cos_N1AF), (0.0, sin_N1AF)):
                table_SN1F = table_N1AF[:, :, axis].expand(len(x_STHC), -1, -1, -1)
                whole_ST1F = torch.full(shape, identity, device=x_STHC.device)
                tables.append(whole_ST1F.index_copy_(1, rays_N, table_SN1F))
            turned_STH2F = _turn(rotary_STHC.unflatten(-1, (2, -1)), *tables)
            parts.append(turned_STH2F.flatten(-2))
        return torch.cat(parts, dim=-1)

    def _rays(self, num_sequences: int) -> Tensor:
        """Indices of the rays, from a mask that must be every sequence's."""
        is_ray_ST = self.is_ray_T.expand(num_sequences, -1)
        if not torch.equal(is_ray_ST[:1].expand_as(is_ray_ST), is_ray_ST):
            raise ValueError("the sequences place their rays differently")
        return is_ray_ST[0].nonzero()[:, 0]


def _turn(pairs_2F: Tensor, cos_F: Tensor, sin_F: Tensor) -> Tensor:
    """Turns pairs (..., 2, F) by -angle."""
    first_F, second_F = pairs_2F.unbind(-2)
    turned = (first_F * cos_F + second_F * sin_F, second_F * cos_F - first_F * sin_F)
    return torch.stack(turned, dim=-2)


def make_positions(device: str) -> dict[str, Position | None]:
    """The sides' position codes, of the same cameras: turned and moved, off-centre, 60 degrees."""
    P_S44, inverse_S44 = (x.to(device) for x in projections(*_cameras(), GRID_HW, PATCH_SIZE))
    rotary = WIDTH // HEADS // 2
    rope = ray_table(GRID_HW, rotary, BASE, torch.device(device))
    # A table's channels are (axis, member of the pair, frequency); the sines of firsts are negated.
    cos_N1AF = rope.cos_T1C.unflatten(-1, (2, 2, -1))[..., 1, :].contiguous()
    sin_N1AF = rope.sin_T1C.unflatten(-1, (2, 2, -1))[..., 1, :].contiguous()
    cameras = {"image_from_world_S44": P_S44, "world_from_image_S44": inverse_S44}
    tables = {"cos_N1AF": cos_N1AF, "sin_N1AF": sin_N1AF}
    is_ray_T = torch.arange(TOKENS, device=device) >= PREFIX
    return {
        "ours": DecoderPosition(**cameras, num_prefix=PREFIX, rope=rope),
        "per token": PerToken(**cameras, **tables),
        "published": Published(**cameras, **tables, is_ray_T=is_ray_T),
        "without": None,
    }


def forward(layer: Layer, position: Position | None, x_STD: Tensor) -> None:
    """The layer's output, in inference mode."""
    with torch.inference_mode():
        layer(x_STD, position)
    _synchronise(x_STD)


def step(layer: Layer, position: Position | None, x_STD: Tensor) -> None:
    """The layer's output and the gradients of its input and weights."""
    layer(x_STD.detach().requires_grad_(), position).square().mean().backward()
    _synchronise(x_STD)


def measure(
    block: Block, positions: Mapping[str, Position | None], x_STD: Tensor, rounds: int
) -> tuple[Times, dict[str, float]]:
    """Times of all sides, and ratios to the compiled (of "eager": to the eager) baseline."""
    times: Times = {}
    ratios: dict[str, float] = {}
    for work, suffix in ((forward, ""), (step, "_step")):
        torch.compiler.reset()
        # A whole graph or an error, except where the host reads.
        whole, broken = torch.compile(block, fullgraph=True), torch.compile(block)
        layers: dict[str, Layer] = {
            "ours": whole,
            "per token": whole,
            "published": broken,
            "without": whole,
            "eager ours": block,
            "eager without": block,
        }
        sides = {
            f"{work.__name__}, {side}": functools.partial(
                work, layer, positions[side.removeprefix("eager ")], x_STD
            )
            for side, layer in layers.items()
        }
        times |= interleave(sides, rounds)
        for name, of, to in (
            ("ratio", "ours", "without"),
            ("ratio_per_token", "per token", "without"),
            ("ratio_published", "published", "without"),
            ("ratio_eager", "eager ours", "eager without"),
        ):
            of, to = (f"{work.__name__}, {side}" for side in (of, to))
            ratios[name + suffix] = ratio(times, of=of, to=to)
    return times, ratios


def main() -> None:
    """Measures forward and step, compiled and eager."""
    options = arguments("prope", rounds=15)
    torch.manual_seed(0)
    block = Block(WIDTH, HEADS, MLP_RATIO).to(options.device)
    torch.nn.init.constant_(block.attn.q_norm.weight, 3.0)  # so that attention is not uniform
    positions = make_positions(options.device)
    x_STD = torch.randn(SEQUENCES, TOKENS, WIDTH, device=options.device)
    facts: dict[str, object] = {"device": options.device, "threads": torch.get_num_threads()}
    with torch.inference_mode():
        outputs = {side: block.attn(x_STD, position) for side, position in positions.items()}
    for side in ("per token", "published", "without"):
        difference = (outputs[side] - outputs["ours"]).abs().max().item()
        facts[f"max_abs_difference_{side.replace(' ', '_')}"] = difference
    times, ratios = measure(block, positions, x_STD, options.rounds)
    title = "PRoPE in one decoder layer: against no positions, and against the per-token forms"
    publish("prope", title, DESCRIPTION, options, times, ratios, facts)


def _cameras() -> tuple[Tensor, Tensor]:
    """(camera_from_world_S44, K_S33): turned and moved, 60 degrees wide, off-centre."""
    angles_S = torch.linspace(0.1, 1.5, SEQUENCES)
    pose_S44 = torch.eye(4).repeat(SEQUENCES, 1, 1)
    pose_S44[:, 0, 0] = pose_S44[:, 2, 2] = angles_S.cos()
    pose_S44[:, 0, 2], pose_S44[:, 2, 0] = angles_S.sin(), -angles_S.sin()
    pose_S44[:, :3, 3] = torch.linspace(-0.8, 0.8, 3 * SEQUENCES).view(SEQUENCES, 3)
    width, height = GRID_HW[1] * PATCH_SIZE, GRID_HW[0] * PATCH_SIZE
    K_33 = torch.eye(3)
    K_33[0, 0] = K_33[1, 1] = 0.87 * width
    K_33[:2, 2] = torch.tensor([0.52 * width, 0.47 * height])
    return pose_S44, K_33.expand(SEQUENCES, 3, 3)


def _synchronise(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
