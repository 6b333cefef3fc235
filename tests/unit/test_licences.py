import pytest

from spa3r.config import TeacherSpec
from spa3r.licences import licence_of_dataset, licence_of_teacher, licences_of, parts

VGGT = {"kind": "vggt", "uri": "facebook/VGGT-1B"}
DINOV3 = {"kind": "dinov3", "uri": "/weights/dinov3.pth"}


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        (VGGT, "vggt-1b-non-commercial"),
        ({"kind": "vggt", "uri": "facebook/VGGT-1B-Commercial"}, "vggt-1b-commercial"),
        ({"kind": "vggt", "uri": "/somewhere/model.pt"}, "vggt"),
        (DINOV3, "dinov3-license"),
        ({"kind": "dinov2", "uri": "facebook/dinov2-large"}, "apache-2.0"),
        ({"kind": "clip", "uri": "openai/clip-vit-large-patch14"}, "mit"),
        ({"kind": "rgbd", "uri": "builtin"}, "apache-2.0"),
        ({"kind": "labels", "uri": "builtin"}, "apache-2.0"),
        ({"kind": "new", "uri": "x"}, "unknown"),
    ],
)
def test_terms_of_a_teacher(reference: dict[str, str], name: str) -> None:
    assert licence_of_teacher(reference).name == name


@pytest.mark.parametrize(
    ("kind", "uri", "licence", "url"),
    [
        ("vggt", "../vggt", "vggt-1b-non-commercial", "huggingface.co/facebook/VGGT-1B"),
        ("vggt", "/w", "vggt-1b-commercial", "huggingface.co/facebook/VGGT-1B-Commercial"),
        ("dinov2", "/w", "apache-2.0", "github.com/facebookresearch/dinov2"),
        ("rgbd", "builtin", "Apache-2.0", "apache.org"),
        ("vggt", "/w", "never heard of", "huggingface.co/facebook/VGGT-1B"),
    ],
)
def test_recorded_terms_stand_whatever_the_place(
    kind: str, uri: str, licence: str, url: str
) -> None:
    found = licence_of_teacher({"kind": kind, "uri": uri, "licence": licence})
    assert url in found.url
    assert found.name == licence.lower() or (licence, found.name) == ("never heard of", "vggt")


def test_every_teacher_of_a_spec_has_terms() -> None:
    for field in ("geometric", "semantic", "linguistic"):
        kinds = TeacherSpec.__annotations__[field].__args__
        for kind in set(kinds) - {"none"}:
            assert licence_of_teacher({"kind": kind, "uri": "x"}).url.startswith("https://"), kind


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("scannet", "scannet-terms-of-use"),
        ("ScanNet-val", "scannet-terms-of-use"),
        ("scannetpp", "scannetpp-terms-of-use"),
        ("scannet++_dslr", "scannetpp-terms-of-use"),
        ("rooms", "apache-2.0"),
        ("rooms-of-a-customer", "unknown"),
        ("my-photos", "unknown"),
    ],
)
def test_terms_of_a_dataset(dataset: str, name: str) -> None:
    assert licence_of_dataset(dataset).name == name


def test_strict_terms_come_first_and_once() -> None:
    references = {"geometric": VGGT, "semantic": {"kind": "dinov2", "uri": "x"}}
    found = licences_of(references, ["scannet", "scannet-val", "rooms"])
    assert [x.name for x in found] == [
        *("scannet-terms-of-use", "vggt-1b-non-commercial", "apache-2.0")
    ]
    assert [(x.role, x.name) for x in parts(references, ["scannet", "rooms"])] == [
        *(("geometric", "vggt"), ("semantic", "dinov2"), ("data", "rooms"), ("data", "scannet"))
    ]


def test_data_that_nobody_recorded_is_unknown() -> None:
    assert [x.name for x in licences_of({}, None)] == ["unknown"]
    assert parts({}, None)[0].name == "unknown data"
    assert licences_of({}, []) == []
