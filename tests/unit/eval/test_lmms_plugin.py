"""The lmms-eval plugin against a stand-in of lmms-eval 0.7.3's base class, which CI lacks."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from spa3r import lmms_eval_plugin
from spa3r.errors import ConfigError
from spa3r.lmms_eval_plugin import models
from tests.suite_makers import cv_doc, picture
from tests.tiny_vlm import tiny_config, tiny_vlm
from tests.untrained import untrained_photographer


class Hook:
    """What the results are remembered by."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Any, str]] = []

    def add_partial(self, attribute: str, request: Any, result: str) -> None:
        self.kept.append((attribute, request, result))


class Base:
    """lmms_eval.api.model.lmms, as far as a model uses it."""

    is_simple = True

    def __init__(self) -> None:
        self.cache_hook = Hook()
        self.task_dict: dict[str, Any] = {}


@dataclass(frozen=True)
class Manifest:
    """lmms_eval.models.registry_v2.ModelManifest."""

    model_id: str
    simple_class_path: str | None = None


@dataclass(frozen=True)
class Instance:
    args: tuple[Any, ...]


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class by the path that lmms-eval makes of AVAILABLE_MODELS."""
    for name, content in {
        "lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.models": {}, "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }.items():  # fmt: skip
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    ((name, made),) = models.AVAILABLE_MODELS.items()
    where = f"{lmms_eval_plugin.__name__}.models.{name}"
    monkeypatch.delitem(sys.modules, where, raising=False)
    assert lmms_eval_plugin.manifest().simple_class_path == f"{where}.{made}"
    return getattr(importlib.import_module(where), made)


def request(number: int, to_media: Callable[[Any], Any], **settings: Any) -> Instance:
    prompt = f"<image>How many chairs? {number}"
    return Instance((prompt, {"max_new_tokens": 4, **settings}, to_media, number, "cv", "test"))


def test_it_answers_as_the_model_does(
    plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = untrained_photographer(tmp_path / "vggt")
    vlm = tiny_vlm(encoder=encoder, config=tiny_config(image_width=84, max_frames=4), stir=True)
    monkeypatch.setattr("spa3r.vlm.spa3_vlm.Spa3VLM.from_pretrained", lambda *_, **__: vlm)
    model = plugin(pretrained="anywhere", batch_size="2")
    pictures = [picture(tmp_path / f"{n}.jpg", n) for n in range(3)]
    model.task_dict = {"cv": {"test": [cv_doc(n) for n in range(3)]}}
    images = [
        request(n, lambda doc: [[Image.open(pictures[doc["idx"]])]]) for n in range(3)
    ]  # nested, as some tasks give them
    found = model.generate_until(images)
    direct = [vlm.ask([pictures[n]], f"How many chairs? {n}", max_new_tokens=4) for n in range(3)]
    assert found == [answer.text for answer in direct]
    assert [kept[2] for kept in model.cache_hook.kept] == found
    blind = model.generate_until([request(0, lambda _: [])])
    assert blind != found[:1]
    until = sys.modules[plugin.__module__]._until
    assert until("B. left\n\nC", ["\n\n", "C"]) == "B. left\n\n"  # blank stops cut too early
    assert until("B", None) == "B"


def test_what_it_cannot_do_is_said(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spa3r.vlm.spa3_vlm.Spa3VLM.from_pretrained", lambda *_, **__: tiny_vlm())
    model = plugin()
    with pytest.raises(ConfigError, match="no likelihoods"):
        model.loglikelihood([])
    with pytest.raises(ConfigError, match="one question at a time"):
        model.generate_until_multi_round([])
