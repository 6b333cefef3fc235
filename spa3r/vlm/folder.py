"""Files of a Spa3-VLM: how it is put together, read and written.

| in the folder        | what                                                                     |
|----------------------|--------------------------------------------------------------------------|
| fusion.safetensors   | where geometry enters                                                    |
| language.safetensors | language="full": the whole language model                                |
| lora.safetensors     | language="lora": its low-rank updates                                    |
| base/                | only where the base cannot be had elsewhere (the tiny one)               |
| README.md            |                                                                          |
| config.json          | VlmCard; written last                                                    |
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from spa3r import storage
from spa3r.convert.places import recorded_place
from spa3r.errors import ConfigError, TeacherError, WeightsError
from spa3r.extras import needed_for
from spa3r.plain import config_hash
from spa3r.teachers.checkpoints import (
    find_file,
    load_json,
    load_state_dict,
    load_strict,
    state_hash,
)
from spa3r.tune_config import VlmConfig
from spa3r.vlm.base import load_base
from spa3r.vlm.card import (
    BASE_FOLDER,
    CONFIG_FILE,
    FUSION_FILE,
    LANGUAGE_FILES,
    VlmCard,
    readme,
)
from spa3r.vlm.fusion import build_fusion
from spa3r.vlm.model import Spa3VlmModel
from spa3r.vlm.quiet import without_bars

if TYPE_CHECKING:
    from spa3r.hub import Spa3REncoder

TINY = "tiny"
_TOWER = ("visual.", "model.visual.")


def located(where: str | Path) -> str:
    """A folder or URL of a model that is named by registry URI, Hugging Face id or place.

    Raises:
        TeacherError: no such folder, and the hub does not give it.
        WeightsError: not in the registry. ConfigError: MLflow is not installed.
    """
    place = str(where)
    if place.startswith("models:/"):
        with needed_for(place, "platform", instead="give a folder or a Hugging Face id"):
            from spa3r.train.registry import resolve

        return str(resolve(place))
    if storage.exists(place):
        return place
    config = find_file(place, CONFIG_FILE)  # of a hub repository: in its cache from here on
    if config is None:
        raise WeightsError(f"{place} has no {CONFIG_FILE}: it is not a Spa3-VLM")
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(place)
    except OSError as error:  # httpx errors and the hub's own are OSErrors
        raise TeacherError(f"{place}: cannot be fetched whole ({error}); try again") from error


def read_card(place: str) -> VlmCard:
    """Raises WeightsError for a folder that holds no Spa3-VLM."""
    values = load_json(place, CONFIG_FILE)
    if values is None:
        raise WeightsError(f"{place} has no {CONFIG_FILE}: it is not a Spa3-VLM")
    return VlmCard.from_json(values, place)


def base_hash(place: str, language: str) -> str:
    """Of what a model takes from its base: the tokenizer and the weights; with language="full" only
    the vision tower's weights, as the language model's own are saved.

    Raises:
        TeacherError: nothing is there. WeightsError: damaged, or without a vision tower.
    """
    state = load_state_dict(place)
    if language == "full":
        state = {name: x for name, x in state.items() if name.startswith(_TOWER)}
        if not state:
            raise WeightsError(f"{place}: no weights of a vision tower; name a Qwen vision model")
    return config_hash([state_hash(state), load_json(place, "tokenizer.json")])


def assemble(
    config: VlmConfig,
    base: str,
    *,
    geometry_width: int,
    seed: int,
    precision: Literal["float32", "bfloat16"],
    device: torch.device,
) -> Spa3VlmModel:
    """The network in its initial state: the base, and a fusion that changes nothing yet. The fusion
    is float32 whatever the base's precision.

    Raises:
        TeacherError, WeightsError: the base cannot be had or does not fit.
    """
    if base == TINY:
        raise ConfigError(
            "base 'tiny' is made for each dataset: give the folder that build_tiny_base wrote"
        )
    with without_bars():
        network = load_base(base, dtype=getattr(torch, precision), device=device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fusion = build_fusion(
            config.fusion, network.hidden_size, network.num_heads, geometry_width or 1,
            merge=network.merge,
        )  # fmt: skip
        model = Spa3VlmModel(network, fusion, config)
    return model.to(device).eval()


def tensors(model: Spa3VlmModel) -> dict[str, dict[str, Tensor]]:
    """What is saved, by file, on the CPU."""
    states: dict[str, Mapping[str, Tensor]] = {FUSION_FILE: model.fusion.state_dict()}
    if language := LANGUAGE_FILES[model.config.language]:
        states[language] = model.language_state()
    return {
        file: {name: x.detach().cpu().contiguous() for name, x in state.items()}
        for file, state in states.items()
    }


def load_tensors(model: Spa3VlmModel, place: str, card: VlmCard) -> None:
    """Fills a network from a folder.

    Raises:
        WeightsError: a file is missing, damaged or another than config.json says, or its tensors do
            not fit; all of them are named.
    """
    for file in card.files:
        path = storage.join(place, file)
        if not storage.exists(path):
            raise WeightsError(f"{path} is missing: fetch or copy the whole folder again")
        state = load_state_dict(path)
        if file == FUSION_FILE:
            load_strict(model.fusion, state, where=path)
        else:
            model.load_language_state(state, path)
        found = state_hash(state)
        if found != card.weights[file]:
            raise WeightsError(
                f"{path} has hash {found}, {CONFIG_FILE} says {card.weights[file]}: it is of"
                " another model; copy the whole folder again"
            )


def encoder_reference(encoder: "Spa3REncoder", version: str) -> dict[str, str]:
    """What a card records of an encoder. An alias of the registry moves, a version does not."""
    uri = encoder.where
    if uri.startswith("models:/") and version:
        uri = f"{uri.partition('@')[0]}/{version}" if "@" in uri else uri
    return {"hash": encoder.hash, "uri": uri, "version": version}


def check_base(place: str, card: VlmCard) -> None:
    """Raises WeightsError for another base than the one that was tuned."""
    found = base_hash(place, card.vlm.language)
    if found != card.base["hash"]:
        raise WeightsError(
            f"{place} is not the base of this model: its hash is {found}, recorded is"
            f" {card.base['hash']} ({card.base['uri']}); give that one as base"
        )


def write(
    folder: str | Path, model: Spa3VlmModel, card: VlmCard, base: str, encoder: str
) -> VlmCard:
    """Writes all files, config.json last; returns the card as written. Same model, same bytes.

    Args:
        base, encoder: where they lie now.
    """
    storage.check_writable(folder, folder=True)
    made = tensors(model)
    for file, state in made.items():
        storage.write_bytes(storage.join(folder, file), save(state))
    base_card: dict[str, str] = dict(card.base)
    if card.base["kind"] == "included":
        base_card["uri"] = f"./{BASE_FOLDER}"
        _copy_files(base, storage.join(folder, BASE_FOLDER))
    else:
        base_card["uri"] = _recorded(folder, base)
    encoder_card = dict(card.encoder)
    if encoder_card:
        encoder_card["uri"] = _recorded(folder, encoder)
    weights = {file: state_hash(state) for file, state in made.items()}
    card = replace(card, base=base_card, encoder=encoder_card, weights=weights)
    storage.write_bytes(storage.join(folder, "README.md"), readme(card).encode())
    storage.write_json(storage.join(folder, CONFIG_FILE), card.to_json())
    return card


def beside(place: str, uri: str) -> str:
    """A recorded place: one that is a path from the model's folder is looked for there."""
    if not uri.startswith(("./", "../")):
        return uri
    if storage.is_local(place):
        return storage.join(place, uri)
    while uri.startswith(("./", "../")):  # an object store knows no ".."
        step, _, uri = uri.partition("/")
        place = place.rstrip("/").rpartition("/")[0] if step == ".." else place
    return storage.join(place, uri)


def _recorded(folder: str | Path, place: str) -> str:
    """A folder beside ours by its path from ours, anything else as it is."""
    if place.startswith("models:/") or not storage.exists(place):
        return place
    return recorded_place(str(folder), place, otherwise=place)


def _copy_files(source: str, target: str) -> None:
    for name in sorted(storage.list_sizes(source)):
        data: Any = storage.read_bytes(storage.join(source, name))
        storage.write_bytes(storage.join(target, name), data)


def load_encoder(
    card: VlmCard, place: str, given: "Spa3REncoder | str | Path | None", options: dict[str, Any]
) -> "Spa3REncoder | None":
    """The encoder that this model was tuned with; None where no geometry enters.

    Args:
        given: instead of the recorded place.

    Raises:
        WeightsError: another encoder. TeacherError: it cannot be had.
    """
    from spa3r.hub import Spa3REncoder

    if card.vlm.fusion.kind == "none" and given is None:
        return None
    encoder = given
    if not isinstance(encoder, Spa3REncoder):
        where = str(given) if given is not None else beside(place, card.encoder["uri"])
        try:
            encoder = Spa3REncoder.from_pretrained(where, **options)
        except (TeacherError, WeightsError) as error:
            raise type(error)(
                f"the encoder of {place} cannot be had from {where!r} ({error}); give another place"
                " of it as encoder"
            ) from error
    wanted = card.encoder.get("hash", encoder.hash)
    if encoder.hash != wanted:
        raise WeightsError(
            f"{encoder.where} is encoder {encoder.hash}, but {place} was tuned with {wanted}"
            f" ({card.encoder['uri']}): give that one, or a model tuned with yours"
        )
    return encoder
