"""Spa3-VLM as a thing to use: load it, ask it about photos.

vlm = Spa3VLM.from_pretrained("models:/spa3-vlm@champion")
vlm.ask(["1.jpg", "2.jpg"], "How many chairs are there?").text
for piece in vlm.ask(images, "What is left of the door?", stream=True): print(piece, end="")
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch

from spa3r.device import Dtype, checked_device, chosen_precision
from spa3r.errors import ConfigError, PromptError
from spa3r.given_images import GivenImages
from spa3r.instructions import Turn
from spa3r.tune_config import VlmConfig
from spa3r.vision_input import SceneViews, prepare_scene
from spa3r.vlm import folder as files
from spa3r.vlm.batch import Geometry, VlmBatch
from spa3r.vlm.card import VlmCard
from spa3r.vlm.geometry import GeometrySource, geometry_width
from spa3r.vlm.model import Spa3VlmModel
from spa3r.vlm.processor import ImageFeatures, Processor, Sample
from spa3r.vlm.streaming import pieces

if TYPE_CHECKING:
    from spa3r.hub import Spa3REncoder

MAX_NEW_TOKENS = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """One question about one scene."""

    turns: Sequence[Turn]
    """The last is a user's; earlier ones are the conversation so far."""
    views: SceneViews | ImageFeatures | None = None
    """None: asked without images (the blind control)."""
    geometry: Geometry | None = None
    """None: worked out from the views."""
    use_geometry: bool = True
    """False: the model sees the images alone (the no-geometry control)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model wrote."""

    text: str
    view_shares: tuple[float, ...] | None
    """How much of the answer comes from each view; see `Spa3VLM.view_shares`. None: not asked."""
    seconds: float
    """Of a batch, its share."""
    frames: tuple[str, ...]
    """Names of the views it saw."""
    truncated: bool
    """It was cut at the number of new tokens."""


class Spa3VLM:
    """A vision-language model with geometry, its encoder and its processor. Several threads may
    ask; they are answered one after another."""

    where: str
    """What it was loaded from."""
    encoder: "Spa3REncoder | None"
    """None where no geometry enters."""

    def __init__(
        self,
        model: Spa3VlmModel,
        processor: Processor,
        card: VlmCard,
        encoder: "Spa3REncoder | None",
        *,
        base: str,
        where: str = "memory",
    ) -> None:
        """Use `create` or `from_pretrained`. `base`: where tokenizer and frozen weights lie."""
        self.model, self.processor, self.card = model.eval(), processor, card
        self.encoder, self.where, self._base = encoder, where, base
        self.device = next(model.parameters()).device
        self._alone = threading.Lock()  # Transformers keeps positions of the answer at hand
        kind = card.vlm.fusion.kind
        self.geometry = (
            None if encoder is None or kind == "none" else GeometrySource(encoder, card.vlm.fusion)
        )

    # --- files ------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        config: VlmConfig,
        *,
        encoder: "Spa3REncoder | None",
        base: str | Path | None = None,
        encoder_version: str = "",
        provenance: dict[str, Any] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: Dtype = "auto",
    ) -> "Spa3VLM":
        """A model that was not tuned yet: it answers as its base does.

        Args:
            encoder: whose geometry will enter; None only for fusion "none".
            base: where the base lies, if not at `config.base`. Of the tiny one: its folder.
            encoder_version: in the registry, for the card.
            provenance: for the card; plain JSON.
            dtype: of the base; "auto": bfloat16 on a GPU that has it, else float32.

        Raises:
            ConfigError: no encoder for a fusion that needs one, sizes that do not fit, a device or
                dtype that is not there. TeacherError, WeightsError: the base cannot be had.
        """
        target = checked_device(device)
        place = str(base or config.base)
        width, reference = 0, {}
        if config.fusion.kind != "none":
            if encoder is None:
                raise ConfigError(f"fusion {config.fusion.kind} needs an encoder: give one")
            width = geometry_width(encoder, config.fusion)
            reference = files.encoder_reference(encoder, encoder_version)
        model = files.assemble(
            config, place, geometry_width=width, seed=seed,
            precision=chosen_precision(dtype, target), device=target,
        )  # fmt: skip
        card = VlmCard(
            vlm=config,
            geometry_width=width,
            base={
                "kind": "included" if config.base == files.TINY else "referenced",
                "uri": place,
                "hash": files.base_hash(place, config.language),
            },
            encoder=reference,
            weights={},
            provenance=provenance or {},
        )
        return cls(model, Processor.from_base(place, config), card, encoder, base=place)

    @classmethod
    def from_pretrained(
        cls,
        where: str | Path,
        *,
        encoder: "Spa3REncoder | str | Path | None" = None,
        base: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: Dtype = "auto",
    ) -> "Spa3VLM":
        """Loads a model with its encoder and base. Every tensor, the base and the encoder are
        checked against the recorded hashes. A folder never touches the network.

        Args:
            where: a folder or fsspec URL that `save_pretrained` wrote, a Hugging Face id, or
                "models:/spa3-vlm@champion" (see Spa3REncoder.from_pretrained).
            encoder, base: instead of their recorded places: an encoder, or where one lies.

        Raises:
            WeightsError: not a Spa3-VLM, tensors that do not fit (all are named), another base or
                another encoder than the recorded ones.
            TeacherError: base, encoder or model cannot be had. ServiceError: no registry.
            ConfigError: a device or dtype that is unknown or not there.
        """
        target = checked_device(device)
        precision = chosen_precision(dtype, target)
        place = files.located(where)
        card = files.read_card(place)
        found = files.load_encoder(card, place, encoder, {"device": device, "dtype": dtype})
        base_place = str(base) if base is not None else files.beside(place, card.base["uri"])
        files.check_base(base_place, card)
        model = files.assemble(
            card.vlm, base_place, geometry_width=card.geometry_width, seed=0, precision=precision,
            device=target,
        )  # fmt: skip
        files.load_tensors(model, place, card)
        processor = Processor.from_base(base_place, card.vlm)
        return cls(model, processor, card, found, base=base_place, where=str(where))

    def save_pretrained(self, folder: str | Path) -> str | Path:
        """Writes the folder (spa3r/vlm/folder.py), config.json last; same model, same bytes."""
        encoder = self.card.encoder.get("uri", "")
        if self.encoder is not None and not encoder.startswith("models:/"):
            encoder = self.encoder.where
        self.card = files.write(folder, self.model, self.card, self._base, encoder)
        return folder

    @property
    def hash(self) -> str:
        """16 hex digits over configuration, weights, base and encoder: of the files it was loaded
        from or last saved to; else of what is in memory."""
        if self.card.weights:
            return self.card.hash
        states = files.tensors(self.model)
        weights = {file: files.state_hash(state) for file, state in states.items()}
        return replace(self.card, weights=weights).hash

    @property
    def precision(self) -> str:
        """Of the base's weights: "float32" or "bfloat16"."""
        weights = next(self.model.base.language_model.parameters())
        return str(weights.dtype).removeprefix("torch.")

    # --- use --------------------------------------------------------------------------------------

    def views(
        self,
        images: GivenImages,
        *,
        depth: np.ndarray | None = None,
        K: np.ndarray | None = None,
        world_from_camera: np.ndarray | None = None,
    ) -> SceneViews:
        """Views at this model's working size; see `Spa3REncoder.encode` for the arguments."""
        return prepare_scene(
            images,
            depth=depth,
            K=K,
            world_from_camera=world_from_camera,
            width=self.card.vlm.image_width,
            multiple=self.card.vlm.image_multiple,
        )

    @overload
    def ask(
        self, images: GivenImages, question: str, *, depth: np.ndarray | None = None,
        K: np.ndarray | None = None, world_from_camera: np.ndarray | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS, stream: Literal[False] = False,
    ) -> Answer: ...  # fmt: skip
    @overload
    def ask(
        self, images: GivenImages, question: str, *, depth: np.ndarray | None = None,
        K: np.ndarray | None = None, world_from_camera: np.ndarray | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS, stream: Literal[True],
    ) -> Iterator[str]: ...  # fmt: skip
    def ask(
        self,
        images: GivenImages,
        question: str,
        *,
        depth: np.ndarray | None = None,
        K: np.ndarray | None = None,
        world_from_camera: np.ndarray | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        stream: bool = False,
    ) -> Answer | Iterator[str]:
        """An answer about photos, greedy; the question is put as it is written.

        Args:
            images: in any form of `Spa3REncoder.encode`; all of them are looked at.
            depth, K, world_from_camera: as there; an `rgbd`-taught encoder needs all three.
            stream: pieces of the text as they come, instead of an Answer.

        Raises:
            ImageError, ConfigError, TeacherError: as `Spa3REncoder.encode`.
            PromptError: an empty question, <image> where there is none, or more tokens than the
                model takes.
        """
        views = self.views(images, depth=depth, K=K, world_from_camera=world_from_camera)
        request = Request(turns=(Turn(role="user", text=question),), views=views)
        if stream:
            return self.stream(request, max_new_tokens=max_new_tokens)
        return self.answer_many([request], max_new_tokens=max_new_tokens)[0]

    def answer_many(
        self,
        requests: Sequence[Request],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = 1,
    ) -> list[Answer]:
        """Answers in the order of the requests; alike in length are worked on together, the longest
        first. A batch gives what its requests give one by one.

        Raises:
            As `ask`, before anything is answered.
        """
        if self.model.fusion.adds_at == "placeholders":  # geometry decides the length
            requests = [replace(x, geometry=self.geometry_of(x)) for x in requests]
        lengths = [self.check(request, max_new_tokens=max_new_tokens) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: -lengths[i])
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            begin = time.monotonic()
            batch = self._batch([requests[i] for i in chosen])
            with self._alone:
                found = self.model.generate(batch, max_new_tokens=max_new_tokens)
            seconds = (time.monotonic() - begin) / len(chosen)
            for i, tokens in zip(chosen, found, strict=True):
                answers[i] = Answer(
                    text=self.processor.text(tokens),
                    view_shares=None,
                    seconds=seconds,
                    frames=_names(requests[i].views),
                    truncated=len(tokens) >= max_new_tokens,
                )
        return [answers[i] for i in range(len(requests))]

    def stream(self, request: Request, *, max_new_tokens: int = MAX_NEW_TOKENS) -> Iterator[str]:
        """Pieces of an answer as they come; joined they are the answer's text. The request is
        checked here, before the first piece is asked for."""
        self.check(request, max_new_tokens=max_new_tokens)
        batch = self._batch([request])
        return pieces(self.model, batch, self.processor, max_new_tokens, self._alone)

    def view_shares(self, request: Request, text: str) -> tuple[float, ...] | None:
        """How much of an answer was drawn from each view; sums to 1. See spa3r/vlm/shares.py.

        Args:
            text: the answer.

        Returns:
            None for a request without views, or an answer without a token.
        """
        from spa3r.vlm.shares import view_shares

        with self._alone:
            return view_shares(self, request, text)

    def geometry_of(self, request: Request) -> Geometry | None:
        """What of the scene enters for a request."""
        if request.views is None or not request.use_geometry or self.geometry is None:
            return None
        if request.geometry is not None:
            return request.geometry
        if isinstance(request.views, ImageFeatures):
            raise ConfigError(
                "a request with the tower's features has no pixels to encode: give its geometry"
            )
        return self.geometry.of(request.views)

    def sample(self, request: Request, *, answer: str = "") -> Sample:
        """Tensors of a request.

        Args:
            answer: an answer given already, which becomes part of it.
        """
        geometry = self.geometry_of(request)
        turns = list(request.turns)
        if answer:
            turns.append(Turn(role="assistant", text=answer))
        return self.processor.sample(
            turns,
            request.views,
            geometry,
            answer=bool(answer),
            num_placeholder=self.model.fusion.num_placeholders(geometry),
        )

    def check(self, request: Request, *, max_new_tokens: int = MAX_NEW_TOKENS) -> int:
        """Tokens of a request, before anything of it is computed.

        Raises:
            PromptError: it cannot be put, or has more tokens than the model takes.
            ConfigError: no new token may come, or views of a size that patches do not tile.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        grid_I3, geometry = self.processor.grid_of(request.views), None
        if self.model.fusion.adds_at == "placeholders":
            geometry = self.geometry_of(request)
        length = self.processor.length(
            request.turns, grid_I3, answer=False,
            num_placeholder=self.model.fusion.num_placeholders(geometry),
        )  # fmt: skip
        base: Any = self.model.base
        limit = int(base.hf.config.text_config.max_position_embeddings)
        if length + max_new_tokens > limit:
            characters = sum(len(turn.text) for turn in request.turns)
            images = 0 if grid_I3 is None else len(grid_I3)
            raise PromptError(
                f"the question has {length} tokens ({images} images, {characters} characters), and"
                f" {max_new_tokens} may follow, but this model takes {limit}: shorten the text or"
                " give fewer images"
            )
        return length

    def _batch(self, requests: Sequence[Request]) -> VlmBatch:
        samples = [self.sample(request) for request in requests]
        return self.processor.collate(samples, pad="left").to(self.device)


def _names(views: SceneViews | ImageFeatures | None) -> tuple[str, ...]:
    if not isinstance(views, SceneViews):
        return ()
    return views.names or tuple(map(str, range(len(views.rgb_VHW3))))
