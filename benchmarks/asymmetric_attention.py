"""Two plain attention calls against one call with a dense mask, at VGGT-1B's global-block size.

python -m benchmarks.asymmetric_attention [--device cpu|cuda] [--json FILE] [--rounds N]
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Times, arguments, interleave, publish, ratio
from spa3r.teachers.asymmetric import asymmetric_attention

HEADS, HEAD_WIDTH = 16, 64
TOKENS = 1041  # of a view: 1 camera, 4 registers, 1036 patches (518 x 392 pixels)
CONTEXT, TARGETS = 4, 4
SPLIT, LENGTH = CONTEXT * TOKENS, (CONTEXT + TARGETS) * TOKENS

DESCRIPTION = f"""\
VGGT's global attention under the asymmetric view mask (paper eq. 5): width 1024, {HEADS} heads,
{CONTEXT} context + {TARGETS} target views of {TOKENS} tokens. Baseline: one
`scaled_dot_product_attention` call with the dense {LENGTH} x {LENGTH} boolean mask, as the released
code does (the mask is built once here; the release rebuilds it in every layer). Ours: context
queries over context keys, then target queries over all keys; no mask exists. `ratio_*` is our share
of the baseline's time; the share by FLOPs is 0.75, the rest is the mask's own cost. The mask takes
`mask_bytes` of memory, ours none; `max_abs_difference` compares the outputs."""


def dense(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, may_attend_TT: Tensor) -> Tensor:
    """The baseline."""
    return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=may_attend_TT)


def main() -> None:
    """Measures float32 and bfloat16, interleaved."""
    options = arguments("asymmetric_attention", rounds=9)
    torch.manual_seed(0)
    may_attend_TT = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=options.device)
    may_attend_TT[:SPLIT, SPLIT:] = False
    times: Times = {}
    ratios: dict[str, float] = {}
    facts: dict[str, object] = {
        "tokens": LENGTH,
        "mask_bytes": may_attend_TT.numel(),
        "device": options.device,
        "threads": torch.get_num_threads(),
    }
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        shape = (1, HEADS, LENGTH, HEAD_WIDTH)
        q, k, v = (torch.randn(shape, device=options.device).to(dtype) for _ in range(3))

        def baseline(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
            return _synchronised(dense(q, k, v, may_attend_TT))

        def ours(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
            return _synchronised(asymmetric_attention(q, k, v, SPLIT))

        with torch.inference_mode():
            difference = (ours() - baseline()).abs().max().item()
            sides = {f"{name} ours": ours, f"{name} dense mask": baseline}
            times |= interleave(sides, options.rounds)
        ratios[f"ratio_{name}"] = ratio(times, of=f"{name} ours", to=f"{name} dense mask")
        facts[f"max_abs_difference_{name}"] = difference
    ratios = {"ratio": ratios["ratio_float32"], **ratios}
    title = "Asymmetric attention: two plain calls against one dense mask"
    publish("asymmetric_attention", title, DESCRIPTION, options, times, ratios, facts)


def _synchronised(x: Tensor) -> Tensor:
    if x.is_cuda:
        torch.cuda.synchronize()
    return x


if __name__ == "__main__":
    main()
