"""Instruction tuning of Spa3-VLM: a whole run, started, continued or re-used."""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from spa3r import storage
from spa3r.data.instruction_sets import read_set
from spa3r.data.mixture import Mixture
from spa3r.device import chosen_precision
from spa3r.errors import ConfigError, TrainingError
from spa3r.hub import Spa3REncoder
from spa3r.lock import locked_folder
from spa3r.plain import config_hash, to_dict
from spa3r.train.follow import OnLine
from spa3r.train.job import Job
from spa3r.train.run import DONE_FILE, Launch, absolute, carry, last_line, require_local
from spa3r.train.tune_features import JOURNAL, Towers, prepare_features
from spa3r.train.tune_order import LengthOrder
from spa3r.train.tune_plan import FORMAT, Plan, make_plan
from spa3r.train.tune_task import order_of
from spa3r.train.tune_work import VLM, Base, EncoderFacts, TuneWork
from spa3r.tune_config import TuneConfig, TuneRecipe
from spa3r.vision_input import SceneViews
from spa3r.vlm import folder as files
from spa3r.vlm.base import load_base
from spa3r.vlm.batch import Geometry
from spa3r.vlm.card import CONFIG_FILE
from spa3r.vlm.geometry import GeometrySource, geometry_width
from spa3r.vlm.processor import Processor
from spa3r.vlm.tiny_base import build_tiny_base

logger = logging.getLogger(__name__)

CPU: Final = torch.device("cpu")
DATA: Final = "data.json"
PLAN: Final = "plan-{}.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class TunePlaces:
    """Where a run finds its data, as paths or fsspec URLs."""

    sets: Mapping[str, str]
    """Folder of each instruction set of the recipe's mixture."""
    encoder: str
    """Folder, URL, Hugging Face id or registry name; "" for fusion "none"."""
    features: str
    """Folder or URL of what is computed once for each video; shared by runs."""
    base: str = ""
    """Where the base lies, if not at vlm.base. Of "tiny": made in the run's folder if empty."""
    encoder_version: str = ""
    """In the registry, for the model's card."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """A finished run."""

    vlm: Path
    """Folder for Spa3VLM.from_pretrained."""
    reused: bool
    """The run was already finished; nothing was trained."""
    metrics: dict[str, float]
    """Last line of metrics.jsonl; {} if the run logged nothing."""
    data: dict[str, Any] = field(default_factory=dict)
    """Conversations learnt, held out and, by set and reason, left out."""


def tune(
    recipe: TuneRecipe,
    places: TunePlaces,
    run: str | Path,
    *,
    checkpoints: str = "",
    launch: Launch | None = None,
    on_line: OnLine | None = None,
    loaders: int = 0,
    device: torch.device | str = "cpu",
) -> Tuned:
    """Tunes a Spa3-VLM; continues a run that was stopped or killed, re-uses a finished one.

    First every video is looked at once and its features are kept (spa3r/train/tune_features.py);
    the encoder's teacher runs there and nowhere else.

    Args:
        run: local, or a mounted folder that all workers share.
        checkpoints: a folder, as path or fsspec URL; empty: <run>/checkpoints.
        launch: where the processes run, as of `pretrain`.
        on_line: called with every line of metrics.jsonl as it appears.
        loaders: threads per process that load batches ahead.
        device: where features are computed.

    Raises:
        TrainingError, StoppedError: as `carry`.
        ConfigError: a run folder that is not local, or nothing to learn from.
        FormatError: no instruction set, or a damaged one. WeightsError, TeacherError: the base or
            the encoder cannot be had, or needs what the media do not have.
    """
    folder, places = require_local(run), _absolute(places)
    work, plan, sets = settled(
        recipe, places, folder, threads=max(1, loaders), device=torch.device(device)
    )
    job = Job(work=work, run=folder, checkpoints=absolute(checkpoints), loaders=loaders)
    identity = work.identity(plan, sets)
    reused = carry(job, identity, "tune", launch=launch, on_line=on_line)
    return Tuned(vlm=folder / VLM, reused=reused, metrics=last_line(folder), data=plan.facts())


def _absolute(places: TunePlaces) -> TunePlaces:
    """Paths that hold in every working directory; names of a registry or a hub as they are."""

    def here(place: str) -> str:
        named = place.startswith("models:/") or not storage.exists(place)
        return place if named else absolute(place)

    return replace(
        places,
        sets={name: absolute(str(folder)) for name, folder in places.sets.items()},
        features=absolute(str(places.features)),
        encoder=here(places.encoder) if places.encoder else "",
        base=here(places.base) if places.base else "",
    )


def settled(
    recipe: TuneRecipe,
    places: TunePlaces,
    run: Path,
    *,
    threads: int = 1,
    device: torch.device = CPU,
) -> tuple[TuneWork, Plan, dict[str, str]]:
    """Features and plan, made or found; the work with its number of steps, and each set's hash.

    Raises:
        ConfigError, FormatError, WeightsError, TeacherError: as `tune`.
    """
    names = [name for name, _ in recipe.mixture.weights]
    found = {name: read_set(places.sets[name]) for name in names if name in places.sets}
    mixture = Mixture(recipe.mixture, found)
    sets = {name: found[name].hash for name in names}
    encoder = _encoder(recipe, places, device)
    base = _base(recipe, places, mixture, run, device)
    work = TuneWork(
        recipe=recipe,
        sets={name: places.sets[name] for name in names},
        plan=run,
        features=places.features,
        base=base,
        encoder=encoder.facts,
    )
    asked = _asked(work, mixture, [one.media_root for one in found.values()])
    path = run / PLAN.format(asked)
    work = replace(work, plan=path)
    plan = _found(work, path)
    if plan is None:
        with locked_folder(run, TrainingError):
            plan = _prepared(work, mixture, encoder, device, asked=asked, threads=threads)
    config = settled_config(recipe.train, order_of(recipe, mixture, plan))
    return replace(work, recipe=replace(recipe, train=config)), plan, sets


def settled_config(config: TuneConfig, order: LengthOrder) -> TuneConfig:
    """With its number of steps, where that is said in epochs, and of warm-up, where in a share."""
    steps = config.steps or -(-order.batches_in(config.epochs) // config.batches_per_step)
    warmup = config.warmup_steps or round(config.warmup_share * steps)
    return replace(config, steps=steps, warmup_steps=min(warmup, steps - 1))


# --- the plan -------------------------------------------------------------------------------------


def _asked(work: TuneWork, mixture: Mixture, roots: list[str]) -> str:
    """Hash of all that decides the plan and the features."""
    recipe, config = work.recipe, work.recipe.train
    held_out = config.validate_conversations if config.validate_every else 0
    made_by = [dict(work.encoder.made_by), work.base.hash, work.base.precision]
    return config_hash([
        FORMAT, to_dict(recipe.vlm), mixture.hash, roots, config.features, held_out, made_by
    ])[:12]  # fmt: skip


def _found(work: TuneWork, path: Path) -> Plan | None:
    """The plan of an earlier start, if all features that it names are still there, or the run is
    finished and needs none."""
    if not path.exists():
        return None
    plan, run = Plan.load(path), path.parent
    if (run / DONE_FILE).exists() and (run / VLM / CONFIG_FILE).exists():
        return plan
    wanted = plan.contents
    stores = (work.stores.geometry, work.stores.images)
    whole = all(wanted <= store.contents() for store in stores if store is not None)
    return plan if whole else None


def _prepared(
    work: TuneWork,
    mixture: Mixture,
    encoder: "_Encoder",
    device: torch.device,
    *,
    asked: str,
    threads: int,
) -> Plan:
    """Looks at every video, keeps features, plan and data.json."""
    recipe, base = work.recipe, work.base
    processor = Processor.from_base(base.place, recipe.vlm)
    storage.check_writable(work.features, folder=True)

    def towers() -> Towers:
        images = None
        if recipe.train.features == "latents_and_images":
            tower = load_base(base.place, dtype=getattr(torch, base.precision), device=device)
            images = partial(_on, device, tower.eval().image_tokens)
        return Towers(geometry=encoder.geometry(recipe), images=images)

    seen = prepare_features(
        recipe, mixture, processor, work.stores, journal=work.plan.with_name(JOURNAL.format(asked)),
        towers=towers, threads=threads,
    )  # fmt: skip
    plan = make_plan(recipe, mixture, processor, seen, asked)
    plan.save(work.plan)
    storage.write_json(work.plan.with_name(DATA), plan.facts())
    logger.info("tune: %s", plan)
    return plan


@torch.no_grad()
def _on(
    device: torch.device, tower: Callable[..., tuple[Tensor, ...]], *arguments: Tensor
) -> tuple[Tensor, ...]:
    return tower(*(x.to(device) for x in arguments))


# --- what it stands on ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Encoder:
    """The encoder, for as long as features are computed, and what a run keeps of it."""

    encoder: Spa3REncoder | None
    facts: EncoderFacts

    def geometry(self, recipe: TuneRecipe) -> Callable[[SceneViews], Geometry] | None:
        """What gives a video's geometry; None where none enters."""
        if self.encoder is None:
            return None
        return GeometrySource(self.encoder, recipe.vlm.fusion).of


def _encoder(recipe: TuneRecipe, places: TunePlaces, device: torch.device) -> _Encoder:
    if recipe.vlm.fusion.kind == "none":
        return _Encoder(None, EncoderFacts())
    if not places.encoder:
        raise ConfigError(
            f"fusion {recipe.vlm.fusion.kind} needs an encoder: name one (--encoder), or set"
            " vlm.fusion.kind=none"
        )
    encoder = Spa3REncoder.from_pretrained(places.encoder, device=device)
    made_by = {
        "encoder": encoder.hash,
        "teacher": encoder.card.references["geometric"]["hash"],
        "tokens": encoder.card.teacher.dtype,
        "precision": encoder.precision,
    }
    facts = EncoderFacts(
        uri=places.encoder, version=places.encoder_version, hash=encoder.hash,
        width=geometry_width(encoder, recipe.vlm.fusion), made_by=made_by,
    )  # fmt: skip
    return _Encoder(encoder, facts)


def _base(
    recipe: TuneRecipe, places: TunePlaces, mixture: Mixture, run: Path, device: torch.device
) -> Base:
    place = places.base or recipe.vlm.base
    if place == files.TINY:
        place = str(_tiny_base(recipe, mixture, run))
    whole, full = files.base_hash(place, "frozen"), recipe.vlm.language == "full"
    return Base(
        place=place,
        hash=whole,
        kept_hash=files.base_hash(place, "full") if full else whole,
        precision=chosen_precision("auto", device),
    )


def _tiny_base(recipe: TuneRecipe, mixture: Mixture, run: Path) -> Path:
    """Made of the mixture's texts, once for each mixture and seed."""
    seed = recipe.train.seed
    multiple = recipe.vlm.image_multiple
    final = run / f"base-{config_hash([mixture.hash, seed, multiple])[:8]}"
    if not final.exists():
        with locked_folder(run, TrainingError):
            if final.exists():  # by the process that held it until now
                return final
            half = final.with_name(f".{final.name}.tmp")
            shutil.rmtree(half, ignore_errors=True)  # of a process that was killed
            conversations = (mixture[number] for number in range(len(mixture)))
            texts = (turn.text for one in conversations for turn in one.turns)
            build_tiny_base(half, texts, seed=seed, image_multiple=multiple).rename(final)
    return final
