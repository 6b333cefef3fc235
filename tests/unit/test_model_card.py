import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from spa3r.model_card import model_card
from spa3r.train.provenance import provenance_tags

VGGT = {"kind": "vggt", "uri": "facebook/VGGT-1B", "hash": "a" * 16, "variant": "layernorm"}
DINOV3 = {"kind": "dinov3", "uri": "facebook/dinov3", "hash": "b" * 16, "variant": "squash224"}
RGBD = {"kind": "rgbd", "uri": "builtin", "hash": "c" * 16, "variant": "v1", "licence": "x"}


def card(references: dict[str, dict[str, str]], datasets: list[str] | None) -> dict[str, Any]:
    provenance: dict[str, Any] = {"recipe": "r", "steps": 3, "data_hash": "d", "target_hash": "t"}
    if datasets is not None:
        provenance["datasets"] = datasets
    model = {"num_latents": 256, "width": 768}
    return {"references": references, "provenance": provenance, "model": model}


def read(text: str) -> dict[str, Any]:
    """The front matter as Hugging Face's own reader understands it."""
    return ModelCard(text).data.to_dict()


def test_front_matter_names_what_restricts_use() -> None:
    references = {"geometric": VGGT, "semantic": DINOV3}
    text = model_card(card(references, ["scannet", "rooms"]))
    data = read(text)
    assert data["license"] == "other"
    assert data["license_name"] == (
        "dinov3-license-and-scannet-terms-of-use-and-vggt-1b-non-commercial-and-apache-2.0"
    )
    assert data["license_link"].startswith("https://ai.meta.com/")
    rows = [line.split(" | ") for line in text.partition("## Terms")[2].splitlines()]
    terms = {row[0].strip("| "): row[2] for row in rows if len(row) > 3}
    assert "facebook/VGGT-1B)" in terms["geometric"] and "dinov3-license" in terms["semantic"]
    assert "| data | scannet | [scannet-terms-of-use](https://" in text
    assert "| datasets | `scannet, rooms` |" in text


def test_generated_rooms_alone_are_open() -> None:
    data = read(model_card(card({"geometric": RGBD}, ["rooms"])))
    assert data["license"] == "apache-2.0"
    assert "license_name" not in data and "license_link" not in data


def test_unrecorded_data_is_said_to_be_unknown() -> None:
    text = model_card(card({"geometric": RGBD}, None))
    assert read(text)["license_name"] == "unknown-and-apache-2.0"
    assert "| data | unknown data | unknown | ask the owner of the recordings |" in text


@pytest.mark.parametrize("datasets", [["scannet"], None])
def test_the_same_model_has_the_same_card(datasets: list[str] | None) -> None:
    values = card({"semantic": DINOV3, "geometric": VGGT}, datasets)
    turned = {**values, "references": dict(reversed(values["references"].items()))}
    assert model_card(values) == model_card(turned)


def test_tags_of_the_registry_carry_the_terms(tmp_path: Path) -> None:
    values = card({"geometric": VGGT, "semantic": DINOV3}, ["scannet++", "rooms"])
    (tmp_path / "config.json").write_text(json.dumps(values))
    tags = provenance_tags(tmp_path)
    assert tags["licences"] == (
        "dinov3-license,scannetpp-terms-of-use,vggt-1b-non-commercial,apache-2.0"
    )
    assert {k: v for k, v in tags.items() if k.startswith("licence_")} == {
        "licence_geometric": "vggt-1b-non-commercial",
        "licence_semantic": "dinov3-license",
        "licence_data_rooms": "apache-2.0",
        "licence_data_scannet__": "scannetpp-terms-of-use",
    }
    assert tags["teacher_kind"] == "vggt" and tags["semantic_teacher_hash"] == "b" * 16
