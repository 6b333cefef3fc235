"""Spa3R: scene latents from context tokens, and features of any view from the latents (paper 3.2).

* projection of teacher tokens to the width, `num_latents` learned queries in front;
* encoder: ViT with 2-D RoPE and registers, no view identity; latents = its normed query rows;
* decoder: every view alone, [registers, latents, rays]; one token per patch from its unit camera
  ray; the camera enters by PRoPE (or, camera="plucker", by world Pluecker rays as input, with
  plain attention and no position code);
* one MLP head per kind of target (geometric, semantic, linguistic), and a depth probe that never
  trains the rest: on the hidden state (release) or on the predicted features (paper).

Parameter names equal the published checkpoint's without its frozen teachers.

Legend: B scenes, V views, C context views, N tokens per view (row-major patch grid), L latents,
D width (of the student, or of the tokens at hand), S = B * V decoder sequences.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from spa3r.config import ModelConfig
from spa3r.errors import ConfigError
from spa3r.models.cameras import patch_rays, plucker_rays, projections
from spa3r.models.precision import at_least_float32
from spa3r.models.prope import DecoderPosition
from spa3r.models.rope import EncoderPosition, encoder_table, ray_table
from spa3r.models.transformer import Mlp, Transformer
from spa3r.schema import KIND_NAMES, KINDS


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldPrediction:
    """What the field answers for a set of views. A feature is None where the model has no head."""

    geo_BVND: Tensor | None  # standardised if the model standardises, as the losses want it
    sem_BVND: Tensor | None
    lang_BVND: Tensor | None = None
    depth_BVN: Tensor  # z-depth at patches, in the clip's unit

    def features(self) -> dict[str, Tensor]:
        """{"geo": ..., "sem": ..., "lang": ...}, only what is there."""
        every = {kind: getattr(self, f"{kind}_BVND") for kind in KINDS}
        return {kind: x for kind, x in every.items() if x is not None}


def output_widths(config: ModelConfig) -> dict[str, int]:
    """Kinds of features that a student of this configuration predicts, with their widths."""
    widths = {"geo": config.geo_width, "sem": config.sem_width, "lang": config.lang_width}
    return {kind: width for kind, width in widths.items() if getattr(config, KIND_NAMES[kind])}


class Spa3RModel(nn.Module):
    """The student: everything that is trained, and nothing of the teachers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.width, config.mlp_ratio * config.width
        shape = (config.num_heads, config.mlp_ratio, config.num_registers)
        self.projection = nn.Linear(config.geo_width, width)
        self.query_embed = nn.Embedding(config.num_latents, width)
        self.pose_tokenizer = nn.Linear(3 if config.camera == "prope" else 6, width)
        self.encoder = Transformer(width, config.encoder_layers, *shape)
        self.decoder = Transformer(width, config.decoder_layers, *shape)
        outputs = output_widths(config)
        self.heads = nn.ModuleDict({k: Mlp(width, hidden, out) for k, out in outputs.items()})
        probed = width if config.depth_probe == "hidden" else sum(outputs.values())
        self.depth_prob = Mlp(probed, hidden, 1)
        if config.standardise:
            for kind, channels in {"geo": config.geo_width, **outputs}.items():
                for name in (f"{kind}_mean", f"{kind}_std"):
                    self.register_buffer(name, torch.zeros(channels, dtype=torch.float32))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Writes every parameter and buffer, from torch's global generator.

        | what                               | how                     |
        |------------------------------------|-------------------------|
        | weights of linear layers, queries  | trunc_normal, std 0.02  |
        | biases of linear layers            | 0                       |
        | registers                          | normal, std 1e-6        |
        | LayerNorm, RMSNorm                 | weight 1, bias 0        |
        | mean, std of standardised features | 0, 1                    |
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                nn.init.ones_(module.weight)
            elif isinstance(module, Transformer):
                nn.init.normal_(module.register_tokens, std=1e-6)
            if isinstance(module, nn.Linear | nn.LayerNorm):
                nn.init.zeros_(module.bias)
        for name, buffer in self.named_buffers():
            buffer.fill_(1.0 if name.endswith("_std") else 0.0)

    def forward(
        self,
        context_BCND: Tensor,
        camera_from_world_BV44: Tensor,
        K_BV33: Tensor,
        grid_hw: tuple[int, int],
    ) -> FieldPrediction:
        """A training step's prediction; DistributedDataParallel wraps this entry."""
        latents_BLD = self.encode(context_BCND, grid_hw)
        return self.predict(self.decode(latents_BLD, camera_from_world_BV44, K_BV33, grid_hw))

    # --- the field --------------------------------------------------------------------------------

    def encode(self, context_BCND: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """Latents of scenes (paper eq. 6-7).

        Args:
            context_BCND: teacher tokens of any number of context views, any float dtype, in the
                teacher's units.
            grid_hw: patch rows and columns of every view.

        Returns:
            (B, L, D).
        """
        num_scenes, num_views, num_tokens, _ = context_BCND.shape
        if num_tokens != grid_hw[0] * grid_hw[1]:
            raise ValueError(f"{num_tokens} tokens per view do not tile a grid of {grid_hw}")
        tokens_BTD = self.projection(self.standardise("geo", context_BCND)).flatten(1, 2)
        queries_BLD = self.query_embed.weight.expand(num_scenes, -1, -1)
        num_latents = self.config.num_latents
        table = encoder_table(
            self.config.num_registers + num_latents,
            num_views,
            grid_hw,
            self.config.width // self.config.num_heads,
            self.config.rope_base,
            context_BCND.device,
            at_least_float32(context_BCND).dtype,
        )
        x_BTD = torch.cat((queries_BLD, tokens_BTD), dim=1)
        return self.encoder(x_BTD, EncoderPosition(rope=table), slice(0, num_latents))

    def decode(
        self,
        latents_BLD: Tensor,
        camera_from_world_BV44: Tensor,
        K_BV33: Tensor,
        grid_hw: tuple[int, int],
    ) -> Tensor:
        """Hidden tokens of the asked views, each decoded on its own (paper eq. 8-12).

        Args:
            camera_from_world_BV44: world = view 0's camera of the encoded clip, in its unit. The
                latents live in that frame: another world frame is another question.
            K_BV33: pixels of an image of grid_hw patches of `config.patch_size`.

        Returns:
            (B, V, N, D).
        """
        num_scenes, num_views = K_BV33.shape[:2]
        dtype = at_least_float32(latents_BLD).dtype
        camera_from_world_BV44, K_BV33 = camera_from_world_BV44.to(dtype), K_BV33.to(dtype)
        with torch.autocast(latents_BLD.device.type, enabled=False):
            rays_BVNX = patch_rays(K_BV33, grid_hw, self.config.patch_size)
            position = None
            if self.config.camera == "prope":
                position = self._decoder_position(camera_from_world_BV44, K_BV33, grid_hw)
            else:
                rays_BVNX = plucker_rays(rays_BVNX, camera_from_world_BV44)
        rays_SND = self.pose_tokenizer(rays_BVNX.flatten(0, 1))
        latents_SLD = latents_BLD.repeat_interleave(num_views, dim=0)
        x_STD = torch.cat((latents_SLD, rays_SND), dim=1)
        hidden_SND = self.decoder(x_STD, position, slice(latents_BLD.shape[1], None))
        return hidden_SND.unflatten(0, (num_scenes, num_views))

    def predict(self, hidden_BVND: Tensor) -> FieldPrediction:
        """Features and depth from the decoder's output. The probe's gradient stops here."""
        features = {kind: head(hidden_BVND) for kind, head in self.heads.items()}
        probed_BVND = hidden_BVND
        if self.config.depth_probe == "features":
            probed_BVND = torch.cat(list(features.values()), dim=-1)
        return FieldPrediction(
            geo_BVND=features.get("geo"),
            sem_BVND=features.get("sem"),
            lang_BVND=features.get("lang"),
            depth_BVN=self.depth_prob(probed_BVND.detach())[..., 0],
        )

    def _decoder_position(
        self, camera_from_world_BV44: Tensor, K_BV33: Tensor, grid_hw: tuple[int, int]
    ) -> DecoderPosition:
        config = self.config
        P_BV44, P_inverse_BV44 = projections(
            camera_from_world_BV44, K_BV33, grid_hw, config.patch_size
        )
        half_head = config.width // config.num_heads // 2
        return DecoderPosition(
            image_from_world_S44=P_BV44.flatten(0, 1),
            world_from_image_S44=P_inverse_BV44.flatten(0, 1),
            num_prefix=config.num_registers + config.num_latents,
            rope=ray_table(grid_hw, half_head, config.rope_base, K_BV33.device, P_BV44.dtype),
        )

    # --- units of the features --------------------------------------------------------------------

    @torch.no_grad()
    def set_statistics(self, statistics: dict[str, Tensor]) -> None:
        """Sets <kind>_mean and <kind>_std: training statistics of the teachers' tokens.

        Raises:
            ConfigError: the model does not standardise, a name or shape is not one of its own, or
                a standard deviation is not positive and finite.
        """
        buffers = dict(self.named_buffers())
        if set(statistics) != set(buffers):
            raise ConfigError(
                f"statistics {sorted(statistics)} given, the model has {sorted(buffers)}"
            )
        for name, value in statistics.items():
            if value.shape != buffers[name].shape:
                raise ConfigError(
                    f"{name} has shape {tuple(value.shape)}, not {tuple(buffers[name].shape)}"
                )
            positive = not name.endswith("_std") or bool((value > 0).all())
            if not (positive and bool(value.isfinite().all())):
                raise ConfigError(f"{name} must be finite, and a deviation positive everywhere")
            buffers[name].copy_(value)

    def standardise(self, kind: str, x: Tensor) -> Tensor:
        """Teacher's tokens (..., D) of a kind in float32, standardised if the model does that."""
        if not self.config.standardise:
            return at_least_float32(x)
        return (at_least_float32(x) - self.get_buffer(f"{kind}_mean")) / self.get_buffer(
            f"{kind}_std"
        )

    def destandardise(self, prediction: FieldPrediction) -> FieldPrediction:
        """The prediction in the teachers' units, float32."""
        features = {}
        for kind, x_BVND in prediction.features().items():
            x_BVND = at_least_float32(x_BVND)
            if self.config.standardise:
                std_D, mean_D = self.get_buffer(f"{kind}_std"), self.get_buffer(f"{kind}_mean")
                x_BVND = x_BVND * std_D + mean_D
            features[f"{kind}_BVND"] = x_BVND
        return replace(prediction, depth_BVN=at_least_float32(prediction.depth_BVN), **features)
