"""No fixture goes by unnoticed: each is replayed by a test of its kind, or skipped by its name."""

import pytest

from tests.conftest import golden_names, shared_folder
from tests.parity import test_adapter, test_dinov3, test_prope, test_spa3r, test_vggt

# Kind of fixture -> what its tests are parametrised with.
CASES: dict[str, list[str] | list[tuple[str, str]]] = {
    "keymap_dinov3_vitl16": ["keymap_dinov3_vitl16"],
    "keymap_spa3_vlm_3b": ["keymap_spa3_vlm_3b"],
    "keymap_spa3r_lightning": ["keymap_spa3r_lightning"],
    "keymap_vggt_1b": ["keymap_vggt_1b"],
    "adapter": test_adapter.NAMES,
    "dinov3": test_dinov3.SIZES,
    "prope": test_prope.NAMES,
    "spa3r": test_spa3r.CASES,
    "vggt_aggregator": test_vggt.AGGREGATORS,
    "vggt_camera_head": test_vggt.CAMERA_HEADS,
    "vggt_depth_head": test_vggt.DPT_HEADS,
    "vggt_masked": test_vggt.MASKS,
}


def names() -> list[str]:
    keymaps = (shared_folder() / "golden").glob("keymap_*.json")
    return [*golden_names(), *sorted(path.stem for path in keymaps)]


@pytest.mark.parametrize("name", names())
def test_every_fixture_is_replayed_or_named(name: str) -> None:
    kinds = [kind for kind in CASES if name.startswith(kind)]
    if not kinds:
        pytest.skip(f"{name}: no parity test knows this kind of fixture")
    replayed = {case if isinstance(case, str) else case[0] for case in CASES[kinds[0]]}
    assert name in replayed, f"{name} is of kind {kinds[0]}, but its tests find no case in it"
