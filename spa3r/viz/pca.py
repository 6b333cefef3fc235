"""Features as colours: three principal directions, fitted on the targets, used for both sides.

Colours fitted on predictions and targets apart cannot be compared (the paper's figure 2 says so of
its own); one basis makes equal colours mean equal features.

Legend: M tokens, D width.
"""

from dataclasses import dataclass

import numpy as np

from spa3r.errors import ConfigError

MAX_TOKENS = 16384
"""Tokens that a basis is fitted to at most, evenly spread: a third of a gigabyte at width 2048."""
_TAILS = (2.0, 98.0)  # percentiles of the targets that span the colour range


@dataclass(frozen=True, slots=True)
class PcaBasis:
    """Centre, three directions and the range of each that maps to 0..1."""

    mean_D: np.ndarray
    axes_D3: np.ndarray
    low_3: np.ndarray
    high_3: np.ndarray

    def colours(self, x_MD: np.ndarray) -> np.ndarray:
        """RGB in [0, 1], same leading axes as the tokens; clipped at the targets' range."""
        projected = (x_MD.astype(np.float64) - self.mean_D) @ self.axes_D3
        return np.clip((projected - self.low_3) / (self.high_3 - self.low_3), 0, 1)


def fit_basis(target_MD: np.ndarray) -> PcaBasis:
    """Basis of target tokens. Deterministic: each axis points where its largest weight is positive.

    Args:
        target_MD: tokens with any leading axes.

    Raises:
        ConfigError: fewer than four tokens or three channels.
    """
    tokens_MD = target_MD.reshape(-1, target_MD.shape[-1])
    if tokens_MD.shape[0] < 4 or tokens_MD.shape[1] < 3:
        raise ConfigError(f"a colour basis needs (>=4, >=3) tokens, got {tokens_MD.shape}")
    x_MD = tokens_MD[:: -(-len(tokens_MD) // MAX_TOKENS)].astype(np.float64)
    mean_D = x_MD.mean(axis=0)
    centred_MD = x_MD - mean_D
    # The D x D covariance stays small however many tokens there are; eigh sorts ascending.
    _, vectors = np.linalg.eigh(centred_MD.T @ centred_MD)
    axes_D3 = vectors[:, :-4:-1]
    strongest = np.abs(axes_D3).argmax(axis=0)
    axes_D3 = axes_D3 * np.sign(axes_D3[strongest, range(3)])
    low_3, high_3 = np.percentile(centred_MD @ axes_D3, _TAILS, axis=0)
    flat = high_3 - low_3 < 1e-12
    return PcaBasis(mean_D, axes_D3, np.where(flat, -0.5, low_3), np.where(flat, 0.5, high_3))
