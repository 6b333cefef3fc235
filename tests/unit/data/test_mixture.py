"""Mixtures: what is left out and why; what an epoch holds by weight."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from spa3r.data.instruction_sets import InstructionSet, write_set
from spa3r.data.mixture import Mixture, same_question
from spa3r.errors import ConfigError
from spa3r.instructions import Mark
from spa3r.tune_config import MixtureConfig
from tests.conversations import conversation, said


def mixture(tmp_path: Path, config: MixtureConfig, **sets: list) -> Mixture:
    return Mixture(config, {name: made(tmp_path, name, some) for name, some in sets.items()})


def made(tmp_path: Path, name: str, some: list) -> InstructionSet:
    return write_set(tmp_path / "sets" / name, some, source="test", media_root="/media")


def of(**weights: float) -> MixtureConfig:
    return MixtureConfig(weights=tuple(weights.items()))


def test_a_quarter_is_another_quarter_each_epoch(tmp_path: Path):
    mix = mixture(tmp_path, of(a=0.25), a=[conversation(i) for i in range(40)])
    assert len(mix) == 40 and mix.epoch_size == 10
    epochs = [mix.epoch(e).tolist() for e in range(8)]
    assert [len(set(epoch)) for epoch in epochs] == [10] * 8
    for four in (epochs[:4], epochs[4:]):
        assert sorted(number for epoch in four for number in epoch) == list(range(40))
    assert set(epochs[0]) != set(epochs[4])  # another shuffle
    assert Mixture(of(a=0.25), mix_sets(tmp_path, 40)).epoch(3).tolist() == epochs[3]


def mix_sets(tmp_path: Path, count: int) -> dict[str, InstructionSet]:
    return {"a": made(tmp_path, "again", [conversation(i) for i in range(count)])}


def test_weights_of_several_sets(tmp_path: Path):
    a = [conversation(i) for i in range(30)]
    b = [conversation(100 + i) for i in range(7)]
    mix = mixture(tmp_path, of(a=0.5, b=2), a=a, b=b)
    assert mix.epoch_size == 15 + 14
    for number in range(5):
        epoch = mix.epoch(number)
        assert epoch.dtype == np.int64
        names = Counter(mix.set_of(int(i)) for i in epoch)
        assert names == {"a": 15, "b": 14}
        twice = Counter(mix[int(i)].id for i in epoch if mix.set_of(int(i)) == "b")
        assert set(twice.values()) == {2} and len(twice) == 7
    mixed = [mix.set_of(int(i)) for i in mix.epoch(0)]
    assert mixed != sorted(mixed)
    assert [one.id for one in mix] == [mix[i].id for i in range(len(mix))]
    assert mix.media_root(0) == mix.media_root(36) == "/media"
    for number in (-1, 37):
        with pytest.raises(IndexError):
            mix[number]


def test_a_share_that_does_not_divide(tmp_path: Path):
    mix = mixture(tmp_path, of(a=0.4), a=[conversation(i) for i in range(7)])
    assert mix.epoch_size == 3
    seen = Counter(int(i) for e in range(7) for i in mix.epoch(e))
    assert seen == dict.fromkeys(range(7), 3)  # three shuffles in seven epochs
    small = mixture(tmp_path, of(b=0.001), b=[conversation(0)])
    assert small.epoch(5).tolist() == [0]


def test_seed_and_contents_decide(tmp_path: Path):
    sets = mix_sets(tmp_path, 40)
    config = of(a=1)
    same = Mixture(config, sets), Mixture(config, sets)
    other = Mixture(MixtureConfig(weights=(("a", 1),), seed=1), sets)
    assert same[0].hash == same[1].hash != other.hash
    assert (same[0].epoch(0) == same[1].epoch(0)).all() and (
        same[0].epoch(0) != other.epoch(0)
    ).any()
    fewer = Mixture(config, {"a": made(tmp_path, "fewer", [conversation(i) for i in range(39)])})
    assert fewer.hash != same[0].hash


def test_a_longer_list_of_benchmark_scenes_makes_another_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sets = {"a": made(tmp_path, "a", [conversation(i, scene=f"s{i}") for i in range(4)])}
    before = Mixture(of(a=1), sets).hash
    monkeypatch.setattr(
        "spa3r.data.mixture.held_out_media", lambda dataset, scene, media: scene == "s2"
    )
    after = Mixture(of(a=1), sets)
    assert len(after) == 3 and after.hash != before


def test_duplicates_within_and_across_sets(tmp_path: Path):
    first = conversation(0)
    again = conversation(1, media=first.media, turns=said(f" {first.turns[0].text}\n", "another"))
    longer = conversation(2, media=first.media, turns=(*first.turns, *said("And?", "no")))
    a = [first, again, longer, conversation(3)]
    b = [conversation(4), conversation(5, media=first.media, turns=first.turns)]
    mix = mixture(tmp_path, of(a=1, b=1), a=a, b=b)
    assert [one.id for one in mix] == ["0", "2", "3", "4"]
    assert mix.dropped == {"a": {"duplicate": 1}, "b": {"duplicate": 1}}


def test_other_marks_ask_another_question():
    mark = Mark(kind="point", colour="red", image=0, xy=(1.0, 2.0))
    one = conversation(0, media_kind="images", media=("a.jpg",), turns=said("<image>?", "4"))
    marked = conversation(0, media_kind="images", media=("a.jpg",), turns=one.turns, marks=(mark,))
    assert same_question(one, "/m") != same_question(marked, "/m")
    assert same_question(one, "/m") == same_question(one, "/m/") != same_question(one, "/n")
    whole = conversation(0, media_kind="images", media=("/m/a.jpg",), turns=one.turns)
    assert same_question(whole, "") == same_question(one, "/m")


@pytest.mark.parametrize(
    "held_out",
    [
        {"dataset": "scannet", "scene": "scene0568_00"},
        {"dataset": "scannetpp", "scene": "09c1414f1b"},
        {"dataset": "arkitscenes", "scene": "41069025"},
        {"dataset": "", "scene": "", "media": ("videos/scene0568_00.mp4",)},
    ],
)
def test_the_guard_stands_at_the_mixture_too(tmp_path: Path, held_out: dict):
    some = [conversation(0), conversation(1, **held_out)]
    mix = mixture(tmp_path, of(a=1), a=some)
    reason = f"benchmark_scene_{held_out['dataset'] or 'of_unknown_dataset'}"
    assert len(mix) == 1 and mix.dropped["a"] == {reason: 1}
    allowed = MixtureConfig(weights=(("a", 1),), benchmark_scenes="allow")
    assert len(mixture(tmp_path, allowed, a=some)) == 2


def test_generated_rooms_only_share_the_names(tmp_path: Path):
    room = conversation(0, dataset="rooms", scene="scene0568_00", media_kind="scan",
                        media=("scene0568_00",))  # fmt: skip
    assert len(mixture(tmp_path, of(a=1), a=[room])) == 1


def test_too_many_images(tmp_path: Path):
    many = conversation(
        0, media_kind="images", media=tuple("abc"), turns=said("<image>" * 3 + "?", "a")
    )
    config = MixtureConfig(weights=(("a", 1),), max_images=2)
    mix = mixture(tmp_path, config, a=[many, conversation(1)])
    assert len(mix) == 1 and mix.dropped["a"] == {"too_many_images": 1}


def test_a_set_that_is_not_there_or_of_which_nothing_is_left(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no instruction set b.*spa3r instruct"):
        mixture(tmp_path, of(a=1, b=1), a=[conversation(0)])
    held = conversation(0, dataset="scannet", scene="scene0568_00")
    with pytest.raises(ConfigError, match=r"nothing is left of it.*1 benchmark_scene_scannet"):
        mixture(tmp_path, of(a=1), a=[held])
