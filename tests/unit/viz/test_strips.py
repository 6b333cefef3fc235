import io
from dataclasses import replace

import numpy as np
from PIL import Image

from spa3r.viz.strips import GAP, TILE_WIDTH, StripImage, clip_strip, depth_gradient, fit_bases
from tests.unit.viz.fakes import clip_example


def pixels(image: StripImage) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.data)))


def test_one_tile_per_view_and_every_column_lines_up() -> None:
    example = clip_example(context=4, targets=3)
    example = replace(example, is_target=(False, True, False, True, False, True, False))
    strip = clip_strip(example, fit_bases([example]))
    height = 168
    assert [group.title for group in strip.groups] == [
        "Held-out view", "Geometric features", "Semantic features", "Depth",
    ]  # fmt: skip
    for group in strip.groups:
        for column in group.columns:
            assert pixels(column).shape == (3 * height + 2 * GAP, TILE_WIDTH, 3)
    assert strip.num_context == 4
    assert pixels(strip.context).shape == (height, 4 * TILE_WIDTH + 3 * GAP, 3)


def test_a_perfect_prediction_has_the_target_s_colours() -> None:
    example = clip_example()
    perfect = replace(
        example, predicted=example.target, predicted_depth_TN=np.maximum(example.depth_TN, 0)
    )
    for group in clip_strip(perfect, fit_bases([perfect])).groups[1:]:
        truth, predicted = group.columns
        assert truth.data == predicted.data


def test_the_basis_is_fitted_on_targets_alone() -> None:
    example = clip_example()
    wild = replace(example, predicted={k: x * 50 for k, x in example.predicted.items()})
    a, b = (clip_strip(e, fit_bases([e])).groups[1].columns for e in (example, wild))
    assert a[0].data == b[0].data and a[1].data != b[1].data


def test_unmeasured_patches_do_not_enter_basis_or_depth_scale() -> None:
    example = clip_example()
    poisoned = {k: x.copy() for k, x in example.target.items()}
    for x in poisoned.values():
        x[0, 5] = np.nan
    spoiled = replace(example, target=poisoned)
    assert clip_strip(spoiled, fit_bases([spoiled])) == clip_strip(example, fit_bases([example]))


def test_a_student_without_semantics_has_no_semantic_columns() -> None:
    example = clip_example()
    only_geo = replace(
        example,
        target={"geo": example.target["geo"]},
        predicted={"geo": example.predicted["geo"]},
    )
    titles = [g.title for g in clip_strip(only_geo, fit_bases([only_geo])).groups]
    assert titles == ["Held-out view", "Geometric features", "Depth"]


def test_linguistic_features_have_columns_of_their_own() -> None:
    example = clip_example()
    both = [{**tokens, "lang": tokens["sem"]} for tokens in (example.target, example.predicted)]
    spoken = replace(example, target=both[0], predicted=both[1])
    groups = {group.title: group for group in clip_strip(spoken, fit_bases([spoken])).groups}
    assert list(groups) == ["Held-out view", "Geometric features", "Semantic features",
                            "Linguistic features", "Depth"]  # fmt: skip
    assert groups["Linguistic features"].columns == groups["Semantic features"].columns


def test_the_depth_legend_is_hex() -> None:
    colours = depth_gradient(3)
    assert colours[0] == "#440154" and len(colours) == 3
