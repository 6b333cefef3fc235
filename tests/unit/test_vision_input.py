"""Images, depth and cameras in every form a user may hold them, and every way to get them wrong."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from spa3r import storage
from spa3r.errors import ConfigError, ImageError
from spa3r.given_images import to_working_size
from spa3r.images import MAX_SIDE, fit_size
from spa3r.vision_input import SceneViews, prepare_scene, to_clip_views
from tests.scan_arrays import scan_arrays

RGB = scan_arrays(views=1, width=112, height=84)["images"][0]


def prepare(images: Any, **arrays: Any) -> SceneViews:
    return prepare_scene(images, width=56, multiple=14, **arrays)


def pixels(images: Any) -> np.ndarray:
    return prepare(images).rgb_VHW3


def png(folder: Path, name: str = "a.png", image: Image.Image | None = None) -> Path:
    (Image.fromarray(RGB) if image is None else image).save(folder / name)
    return folder / name


# --- forms ----------------------------------------------------------------------------------------


def test_every_form_of_an_image_gives_the_same_pixels(tmp_path: Path):
    expected = cv2.resize(RGB, (56, 42), interpolation=cv2.INTER_AREA)[None]
    storage.write_bytes("memory://photos/b.png", png(tmp_path).read_bytes())
    chw = torch.from_numpy(RGB).permute(2, 0, 1)
    one = [png(tmp_path), str(png(tmp_path)), "memory://photos/b.png", Image.fromarray(RGB), RGB,
           chw, chw.float() / 255, chw.double() / 255]  # fmt: skip
    for image in one:
        np.testing.assert_array_equal(pixels(image), expected)
        np.testing.assert_array_equal(pixels([image]), expected)
    for many in (one, tuple(one)):
        np.testing.assert_array_equal(pixels(many), np.repeat(expected, len(one), 0))
    np.testing.assert_array_equal(pixels(np.stack([RGB, RGB])), np.repeat(expected, 2, 0))
    np.testing.assert_array_equal(pixels(chw[None].float() / 255), expected)
    dimmed = chw.clamp(1, 254).float()
    for shift in (-0.4, 0.4):  # to the nearest level
        np.testing.assert_array_equal(pixels((dimmed + shift) / 255), pixels(dimmed / 255))


def test_names_and_sizes_are_kept(tmp_path: Path):
    small = Image.fromarray(RGB[::2, ::2])
    opened = Image.open(png(tmp_path, "opened.png"))
    found = prepare([png(tmp_path, "kitchen 1.png"), small, opened, RGB])
    assert found.names == ("kitchen 1.png", "", "opened.png", "")
    assert found.source_sizes == ((112, 84), (56, 42), (112, 84), (112, 84))
    assert prepare([RGB, small]).names == ()


def over_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("as_file", [False, True])
def test_grey_palette_and_transparent_pictures(as_file: bool, tmp_path: Path):
    rgba = np.dstack([RGB, np.linspace(0, 255, RGB[..., 0].size).reshape(84, 112).astype(np.uint8)])
    palette = Image.fromarray(RGB).quantize(32)
    grey = Image.fromarray(RGB).convert("L")
    grey_alpha = Image.fromarray(rgba).convert("LA")
    hole = palette.copy()
    hole.info["transparency"] = 3
    with_hole = np.where(
        np.asarray(palette)[..., None] == 3, 255, np.asarray(palette.convert("RGB"))
    )
    cases = {
        "grey": (grey, np.asarray(grey)[..., None].repeat(3, 2)),
        "palette": (palette, np.asarray(palette.convert("RGB"))),
        "hole": (hole, with_hole),
        "transparent": (Image.fromarray(rgba), over_white(rgba)),
        "grey with alpha": (grey_alpha, over_white(np.asarray(grey_alpha)[..., [0, 0, 0, 1]])),
        "bits": (grey.convert("1"), np.asarray(grey.convert("1").convert("RGB"))),
    }  # fmt: skip
    for name, (image, plain) in cases.items():
        given = png(tmp_path, f"{name}.png", image) if as_file else image
        expected = cv2.resize(plain.astype(np.float32), (56, 42), interpolation=cv2.INTER_AREA)
        assert np.abs(pixels(given)[0] - expected).max() <= 1.5, name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int, tmp_path: Path):
    """Against Pillow's own turning; portrait frames only match portrait frames."""
    image = Image.fromarray(RGB)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as stored:
        turned = stored.transpose(
            {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}[orientation]  # type: ignore[arg-type]
        ) if orientation > 1 else stored.convert("RGB")  # fmt: skip
        expected = pixels(np.asarray(turned))
        found = prepare([tmp_path / "a.png", stored])
    assert found.source_sizes == (turned.size,) * 2
    for view in found.rgb_VHW3:
        np.testing.assert_array_equal(view, expected[0])


def test_sizes_may_differ_and_aspect_ratios_may_not(tmp_path: Path):
    half = np.ascontiguousarray(RGB[::2, ::2])
    nearly = RGB[:83]  # comes to the same rows after the crop
    assert pixels([RGB, half, nearly]).shape == (3, 42, 56, 3)
    portrait = png(tmp_path, "tall.png", Image.fromarray(RGB).rotate(90, expand=True))
    with pytest.raises(ImageError) as caught:
        prepare([RGB, half, portrait])
    for part in ("112 x 84 -> 56 x 42 (image 0)", f"84 x 112 -> 56 x 56 ({portrait})",
                 "one aspect ratio", "separate scenes"):  # fmt: skip
        assert part in str(caught.value)


# --- what is no image -----------------------------------------------------------------------------


def header_of(width: int, height: int) -> bytes:
    """The first bytes of a PNG of any size; there are no pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + buffer.getvalue()[24:29]
    crc = int(np.uint32(zlib.crc32(head))).to_bytes(4, "big")
    return buffer.getvalue()[:12] + head + crc + buffer.getvalue()[33:]


def cut_short(folder: Path) -> Path:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (84, 112, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    path = folder / "cut.png"
    path.write_bytes(buffer.getvalue()[:3000])
    return path


CHW = torch.from_numpy(RGB).permute(2, 0, 1)
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "none": (lambda _: [], "no images"),
    "empty array": (lambda _: np.zeros((0, 84, 112, 3), np.uint8), "no images"),
    "missing": (lambda d: [d / "no.jpg"], r"no\.jpg: no such file"),
    "folder": (lambda d: [d], "a folder; give the image files"),
    "cut file": (lambda d: [RGB, cut_short(d)], r"cut\.png: does not decode"),
    "cut PIL image": (lambda d: [RGB, Image.open(cut_short(d))], r"cut\.png: does not decode"),
    "text": (lambda d: [(d / "t.jpg", (d / "t.jpg").write_text("x"))[0]], r"t\.jpg: not a JPEG"),
    "huge array": (lambda _: [RGB, np.zeros((1, MAX_SIDE + 1, 3), np.uint8)], "image 1: 16385 x 1"),
    "huge file": (lambda d: [(d / "h.png", (d / "h.png").write_bytes(header_of(17000, 9)))[0]],
                  r"h\.png: an image of 17000 x 9"),
    "huge PIL image": (lambda _: Image.open(io.BytesIO(header_of(9, 17000))), "image 0: 9 x 17000"),
    "flat": (lambda _: [RGB[:2]], r"image 0: .*does not fit width"),
    "bright floats": (lambda _: CHW.float(), r"image 0: floats must lie in \[0, 1\], got 0 to 2"),
    "no numbers": (lambda _: CHW[None] * float("nan"), "floats must lie"),
    "integers": (lambda _: CHW.long(), r"uint8 or floats in \[0, 1\], got torch.int64"),
    "channels last": (lambda _: torch.from_numpy(RGB), r"images must be .*got \(84, 112, 3\)"),
    "float array": (lambda _: [RGB / 255.0], "images must be .* of float64 for image 0"),
    "grey array": (lambda _: [RGB, RGB[..., 0]], r"images must be .*\(84, 112\).* for image 1"),
    "16-bit PIL image": (lambda _: Image.new("I;16", (112, 84)), "mode I;16 has no 8-bit colours"),
    "number": (lambda _: 3, "images must be .*, got int"),
    "list of numbers": (lambda _: [3], "image 0 is int: images must be"),
    "unknown protocol": (lambda _: ["nowhere://a.jpg"], "nowhere://a.jpg: "),
}  # fmt: skip


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_what_is_no_image_is_named_in_one_line(make: Any, words: str, tmp_path: Path):
    with pytest.raises(ImageError, match=words) as caught:
        prepare(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_nothing_is_decoded_before_all_sizes_are_known(tmp_path: Path):
    """The cut file would not decode; the odd one out is found first, by its header."""
    with pytest.raises(ImageError, match="working sizes"):
        prepare([cut_short(tmp_path), np.ascontiguousarray(RGB[:, :84])])


def test_a_jpeg_is_decoded_as_ingest_decodes_it(tmp_path: Path):
    """At an eighth of its size where that is enough: within the resampling of each other."""
    large = cv2.resize(RGB, (448, 336), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "a.jpg"), large[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    by_file = to_working_size(tmp_path / "a.jpg", width=56, multiple=14).rgb_VHW3
    assert np.abs(by_file.astype(int) - pixels(large)).mean() < 2


# --- depth and cameras ----------------------------------------------------------------------------


def test_depth_and_intrinsics_follow_each_image(tmp_path: Path):
    arrays = scan_arrays(views=2, width=112, height=90)  # 56 x 45, cropped to 56 x 42
    half = np.ascontiguousarray(arrays["images"][1, ::2, ::2])
    K = arrays["K"].copy()
    K[1, :2] /= 2
    depth = (1000 + np.arange(2 * 30 * 40).reshape(2, 30, 40)).astype(np.uint16)
    given = arrays | {"images": [arrays["images"][0], half], "K": K, "depth": depth}
    found = prepare(**given)
    assert found.depth_VHW is not None and found.K_V33 is not None
    size = fit_size((112, 90), 56, 14)
    for row, column in ((0, 0), (41, 55), (20, 30)):  # each pixel's centre, in the map's pixels
        y, x = (row + size.top + 0.5) * 30 / 45, (column + 0.5) * 40 / 56
        expected = depth[:, int(y), int(x)] / np.float32(1000)
        np.testing.assert_allclose(found.depth_VHW[:, row, column], expected, rtol=1e-6)
    np.testing.assert_allclose(found.K_V33[0], found.K_V33[1], atol=1e-12)
    np.testing.assert_allclose(found.K_V33[0][:2, 2], (28, 22.5 - size.top))
    views = to_clip_views([found, found])
    assert views.images_BV3HW.shape == (2, 2, 3, 42, 56) and not bool(views.is_target_BV.any())
    np.testing.assert_array_equal(
        views.images_BV3HW[1, 0].permute(1, 2, 0) * 255, found.rgb_VHW3[0]
    )


def test_one_image_takes_one_depth_map_and_camera():
    arrays = scan_arrays(views=1, width=112, height=84)
    plain = prepare(**arrays)
    alone = prepare(**{name: array[0] for name, array in arrays.items()})
    for name, array in plain.arrays().items():
        np.testing.assert_array_equal(alone.arrays()[name], array)


def test_poses_may_leave_out_their_last_row():
    arrays = scan_arrays(views=2, width=112, height=84)
    rows = arrays["world_from_camera"][:, :3]
    plain, short = prepare(**arrays), prepare(**arrays | {"world_from_camera": rows})
    for name, array in plain.arrays().items():
        np.testing.assert_array_equal(short.arrays()[name], array)
    alone = {name: array[0] for name, array in arrays.items()} | {"world_from_camera": rows[0]}
    poses = prepare(**alone).world_from_camera_V44
    np.testing.assert_array_equal(poses, arrays["world_from_camera"][:1])


REFLECTED = np.diag([1.0, 1, -1, 1])
K_OF_A_PHOTO = np.array([[[90.0, 0, 56], [0, 90, 42], [0, 0, 1]],
                         [[900, 0, 560], [0, 900, 420], [0, 0, 1]]])  # fmt: skip
SKEWED = np.array([np.eye(3), [[90, 0.1, 56], [0, 90, 42], [0, 0, 1]]])
WRONG: dict[str, tuple[str, Any, type[Exception], str]] = {
    "depth of fewer views": ("depth", np.ones((1, 9, 9)), ImageError, "depth must be"),
    "integer depth": ("depth", np.ones((2, 9, 9), np.int32), ImageError, "depth must be"),
    "ragged depth": ("depth", [np.ones((9, 9)), np.ones((8, 9))], ImageError, "depth must be"),
    "no measurement as nan": ("depth", np.full((2, 9, 9), np.nan), ImageError, "write 0 where"),
    "negative depth": ("depth", -np.ones((2, 9, 9)), ImageError, "write 0 where"),
    "one K": ("K", np.eye(3), ImageError, r"K must be \(2, 3, 3\)"),
    "no focal length": ("K", np.zeros((2, 3, 3)), ConfigError, "K of view 0: K must be"),
    "text": ("K", "K", ImageError, "K must be"),
    "K of another image": ("K", K_OF_A_PHOTO, ConfigError, "K of view 1: the principal point"),
    "a skewed K": ("K", SKEWED, ConfigError, "K of view 1: .*skew"),
    "poses of 2 rows": ("world_from_camera", np.ones((2, 2, 4)), ImageError, "4 x 4 or 3 x 4"),
    "ragged poses": ("world_from_camera", [[[1], [1, 2]]], ImageError, "world_from_camera must"),
    "a mirrored pose": ("world_from_camera", np.stack([np.eye(4), REFLECTED]), ConfigError,
                        "view 1 .*camera-to-world, in metres, OpenCV axes"),
    "an infinite pose": ("world_from_camera", np.full((2, 4, 4), -np.inf), ConfigError, "view 0"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value", "error", "words"), WRONG.values(), ids=WRONG)
def test_impossible_arrays_are_named(name: str, value: Any, error: type[Exception], words: str):
    arrays = scan_arrays(views=2, width=112, height=84)
    with pytest.raises(error, match=words) as caught:
        prepare(**arrays | {name: value})
    assert "\n" not in str(caught.value)
