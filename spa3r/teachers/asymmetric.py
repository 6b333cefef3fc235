"""Attention between context and target views without a mask (Spa3R paper, eq. 5).

Legend: B scenes, H heads, T tokens of all views (context first), D head width.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def asymmetric_attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, context: int) -> Tensor:
    """Context tokens attend to context only; target tokens attend to everything.

    Equals one call with the dense mask `query is target or key is context`, at the price of the
    pairs that survive it and without its T x T memory.

    Args:
        q_BHTD, k_BHTD, v_BHTD: the first `context` tokens are the context. Fastest when they are
            transposed views of (B, T, H, D) memory, which is how projections leave them.
        context: number of context tokens, 0..T; 0 and T mean ordinary full attention.

    Returns:
        (B, H, T, D), a transposed view of (B, T, H, D) memory.
    """
    if context in (0, q_BHTD.shape[2]):
        return scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD)
    context_out = scaled_dot_product_attention(
        q_BHTD[:, :, :context], k_BHTD[:, :, :context], v_BHTD[:, :, :context]
    )
    target_out = scaled_dot_product_attention(q_BHTD[:, :, context:], k_BHTD, v_BHTD)
    out_BTHD = torch.cat([context_out.transpose(1, 2), target_out.transpose(1, 2)], dim=1)
    return out_BTHD.transpose(1, 2)
