"""What a tuning finds before it starts: its instruction sets and its encoder."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows import tune_stage
from flows.settings import Settings
from spa3r.data.instruction_sets import write_set
from spa3r.errors import ConfigError, WeightsError
from spa3r.instructions import Instruction, Turn
from spa3r.recipes import vlm_catalogue
from spa3r.train import registry
from spa3r.train.registry import Registered
from spa3r.tune_commands import ENCODER, listing


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path, shards_root="", targets_root="", workers=1, train_workers=0, gpu=False,
        mlflow_uri="",
    )  # fmt: skip


def instruction_set(folder: str) -> str:
    turns = (Turn(role="user", text="How many?"), Turn(role="assistant", text="3"))
    one = Instruction(id="1", source="rooms", media_kind="none", media=(), turns=turns)
    return write_set(folder, [one], source="rooms").hash


def test_a_set_is_found_by_its_name_or_as_the_one_generated_set(settings: Settings) -> None:
    made = settings.instruction_set("rooms-0123abcd")
    instruction_set(made)
    instruction_set(settings.instruction_set("rooms-big"))  # imported under another name
    assert tune_stage.find_set(settings, "rooms") == made
    assert tune_stage.find_set(settings, "rooms-big").endswith("/rooms-big")
    instruction_set(settings.instruction_set("rooms-ffff0000"))
    with pytest.raises(ConfigError) as caught:
        tune_stage.find_set(settings, "rooms")
    assert f"--sets rooms={made}" in str(caught.value) and "rooms-ffff0000" in str(caught.value)
    instruction_set(settings.instruction_set("rooms"))
    assert tune_stage.find_set(settings, "rooms").endswith("/rooms")


def test_a_set_that_is_nowhere_is_one_line_with_both_cures(settings: Settings) -> None:
    with pytest.raises(ConfigError) as caught:
        tune_stage.find_set(settings, "vsi-590k")
    text = str(caught.value)
    assert "spa3r instruct ... --name vsi-590k" in text and "\n" not in text
    assert "spa3r questions --dataset vsi-590k" in text and settings.instructions in text


def test_without_geometry_no_encoder_is_asked_for(settings: Settings, tmp_path: Path) -> None:
    folder = str(tmp_path / "mine")
    digest = instruction_set(folder)
    recipe = vlm_catalogue.get("vlm-debug-none")
    plan = tune_stage.settle(settings, None, recipe, ENCODER, {"rooms": folder})
    assert plan.hashes == {"set_rooms": digest} and plan.places.encoder == ""
    assert dict(plan.places.sets) == {"rooms": folder}
    assert plan.places.features == settings.features
    assert plan.run == settings.tuning_run(recipe, plan.hashes)
    with pytest.raises(ConfigError, match=r"has no instruction set beds: it learns from rooms"):
        tune_stage.settle(settings, None, recipe, ENCODER, {"rooms": folder, "beds": folder})


def test_an_alias_is_pinned_to_its_version(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may move while we train."""
    found = Registered(
        name="spa3r-encoder", version="7", run_id="r", aliases=(), tags={"encoder_hash": "e" * 16}
    )
    monkeypatch.setattr(registry, "named", lambda _client, _uri: found)
    folder = str(tmp_path / "mine")
    instruction_set(folder)
    recipe = vlm_catalogue.get("vlm-debug")
    plan = tune_stage.settle(settings, None, recipe, ENCODER, {"rooms": folder})
    assert (plan.places.encoder, plan.places.encoder_version) == ("models:/spa3r-encoder/7", "7")
    assert plan.hashes["encoder_hash"] == "e" * 16
    other = replace(found, tags={"encoder_hash": "f" * 16})
    monkeypatch.setattr(registry, "named", lambda _client, _uri: other)
    assert tune_stage.settle(settings, None, recipe, ENCODER, {"rooms": folder}).run != plan.run


def test_without_a_champion_the_candidate_is_named_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(_client: object, uri: str) -> Registered:
        raise WeightsError(f"{uri} is not in the registry: it has no such version")

    monkeypatch.setattr(registry, "named", none)
    with pytest.raises(WeightsError, match=r"--encoder models:/spa3r-encoder@candidate"):
        tune_stage.find_encoder(None, ENCODER)
    with pytest.raises(WeightsError) as caught:
        tune_stage.find_encoder(None, "models:/spa3r-encoder@candidate")
    assert "--encoder" not in str(caught.value)
    assert ENCODER == tune_stage.CHAMPION


def test_the_list_names_every_ablation_with_the_papers_figures() -> None:
    text = listing("vlm-vsi")
    for needed in ("Table 3", "Table 5", "vlm-vsi-append", "58.5 / 43.7 / 51.1", "None is ours",
                   "vlm-vsi-deepstack"):  # fmt: skip
        assert needed in text, needed
    with pytest.raises(ConfigError, match="unknown"):
        listing("vlm-huge")
