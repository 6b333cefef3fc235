"""Decoding refuses what is not as declared; resizing moves image and intrinsics together."""

import io
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from spa3r import images
from spa3r.errors import ImageError
from spa3r.images import EncodedDepth, EncodedImage


def picture(width: int, height: int) -> np.ndarray:
    """Smooth colours, different in every corner, so that JPEG keeps them and a flip shows."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / width, 255 * y / height
    return np.stack([red, green, 255 - red], axis=-1).astype(np.uint8)


def jpeg(rgb: np.ndarray, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", quality=95, exif=exif)
    return out.getvalue()


def encoded(data: bytes, size: tuple[int, int] | None = None, oriented: bool = False):
    return EncodedImage(data=data, codec="file", size=size, oriented=oriented)


def depth_stream(values: np.ndarray, **changes) -> EncodedDepth:
    stored = {
        "data": zlib.compress(values.astype("<u2").tobytes()),
        "codec": "zlib_u16",
        "size": (values.shape[1], values.shape[0]),
    }
    return EncodedDepth(**(stored | changes))


DEPTH = np.random.default_rng(0).integers(0, 5000, (48, 64)).astype(np.uint16)


# --- colour ---------------------------------------------------------------------------------------


def test_colour_comes_back_as_rgb():
    rgb = picture(64, 48)
    decoded = images.decode_color(encoded(jpeg(rgb), size=(64, 48)))
    assert np.abs(decoded.astype(int) - rgb).mean() < 3


@pytest.mark.parametrize(
    ("min_size", "expected"),
    [
        ((518, 0), (648, 484)),
        ((648, 484), (648, 484)),
        ((649, 0), (1296, 968)),
        ((1, 1), (162, 121)),
    ],
)
def test_jpeg_is_decoded_at_the_strongest_reduction_that_suffices(min_size, expected):
    image = encoded(jpeg(picture(1296, 968)))
    decoded = images.decode_color(image, min_size)
    assert decoded.shape[1::-1] == expected
    assert np.abs(decoded.astype(int) - picture(*expected)).mean() < 4


def test_odd_sizes_are_not_reduced():
    """A rounded-up half would cover more than the image and shift K."""
    assert images.decode_color(encoded(jpeg(picture(129, 96))), (10, 10)).shape == (96, 129, 3)


def test_png_is_not_reduced():
    data = cv2.imencode(".png", picture(128, 96))[1].tobytes()
    assert images.decode_color(encoded(data), (10, 10)).shape == (96, 128, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_photos_upright(orientation: int):
    stored = picture(64, 48)
    with Image.open(io.BytesIO(jpeg(stored, orientation))) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    image = encoded(jpeg(stored, orientation), oriented=True)
    decoded = images.decode_color(image)
    assert images.stored_size(image) == decoded.shape[1::-1]
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 3


def test_exif_orientation_is_ignored_for_sensor_frames():
    image = encoded(jpeg(picture(64, 48), orientation=6), size=(64, 48))
    assert images.decode_color(image).shape == (48, 64, 3)


def test_a_damaged_exif_block_does_not_cost_the_photo():
    data = jpeg(picture(64, 48), orientation=6)
    at = data.index(b"Exif\x00\x00") + 6
    broken = data[:at] + b"\xff" * 8 + data[at + 8 :]
    assert images.decode_color(encoded(broken, oriented=True)).shape == (48, 64, 3)


def test_another_size_than_declared_is_refused():
    with pytest.raises(ImageError, match="64 x 48, the scan declares 176 x 120"):
        images.decode_color(encoded(jpeg(picture(64, 48)), size=(176, 120)))


@pytest.mark.parametrize("keep", [0, 10, 400, -300, -2])
def test_a_jpeg_cut_short_is_refused(keep: int):
    data = jpeg(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    with pytest.raises(ImageError):
        images.decode_color(encoded(data[:keep]))


def test_sides_beyond_the_limit_are_refused_from_the_header():
    data = bytearray(cv2.imencode(".png", picture(8, 8))[1].tobytes())
    data[16:24] = (20000).to_bytes(4, "big") + (8).to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(ImageError, match="20000 x 8"):
        images.decode_color(encoded(bytes(data)))


def test_raw_rgb_must_have_exactly_its_bytes():
    rgb = picture(8, 4)
    raw = EncodedImage(data=rgb.tobytes(), codec="raw_rgb8", size=(8, 4))
    np.testing.assert_array_equal(images.decode_color(raw), rgb)
    short = EncodedImage(data=rgb.tobytes()[:-1], codec="raw_rgb8", size=(8, 4))
    with pytest.raises(ImageError, match="95 bytes"):
        images.decode_color(short)
    with pytest.raises(ImageError, match="without a declared size"):
        images.decode_color(EncodedImage(data=rgb.tobytes(), codec="raw_rgb8"))


# --- depth and labels -----------------------------------------------------------------------------


def test_depth_codecs_agree():
    png = EncodedDepth(data=images.encode_depth_png(DEPTH), codec="png_u16")
    raw = depth_stream(DEPTH, data=DEPTH.tobytes(), codec="raw_u16")
    for stored in (png, raw, depth_stream(DEPTH)):
        np.testing.assert_array_equal(images.decode_depth(stored), DEPTH)


def pgm(header: bytes, values: np.ndarray = DEPTH) -> EncodedDepth:
    return EncodedDepth(data=header + values.astype(">u2").tobytes(), codec="pgm_u16")


@pytest.mark.parametrize(
    "header",
    [
        b"P5\n64 48\n65535\n",
        b"P5 64 48 5000 ",
        b"P5\r\n# made by hand\r\n64 # width\n48\n#\n65535\n",
        b"P5\t064\n\n48\n65535\n",
    ],
)
def test_depth_of_a_pgm_is_big_endian(header: bytes):
    found = images.decode_depth(pgm(header))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, DEPTH)


def test_a_pgm_may_start_like_its_header_goes_on():
    """Exactly one blank ends the header: the first depth may look like another, or like a '#'."""
    values = DEPTH.copy()
    values[0, :4] = 0x2020, 0x0A0A, 0x2335, 0x3030
    np.testing.assert_array_equal(images.decode_depth(pgm(b"P5\n64 48\n65535\n", values)), values)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"P2\n64 48\n65535\n", "not a binary PGM"),
        (b"P564 48\n65535\n", "not a binary PGM"),
        (b"P5\n64 -48\n65535\n", "not a binary PGM"),
        (b"P5\n" + b"#" * 5000 + b"\n64 48\n65535\n", "not a binary PGM"),
        (b"P5\n640000 48\n65535\n", "not a binary PGM"),
        (b"P5\n64 49\n65535\n", "64 x 49 has 6144 bytes"),
        (b"P5\n32 48\n65535\n", "32 x 48 has 6144 bytes"),
        (b"P5\n64 48\n255\n", "16-bit values are needed"),
        (b"P5\n64 48\n65536\n", "16-bit values are needed"),
        (b"P5\n64 48\n0\n", "16-bit values are needed"),
        (b"P5\n0 48\n65535\n", "0 x 48; sides"),
        (b"P5\n99999 99999\n65535\n", "99999 x 99999; sides"),
    ],
)
def test_a_pgm_that_lies_is_refused(header: bytes, said: str):
    with pytest.raises(ImageError, match=said):
        images.decode_depth(pgm(header))


def test_a_pgm_has_the_declared_size_and_units():
    whole = b"P5\n64 48\n65535\n" + DEPTH.astype(">u2").tobytes()
    with pytest.raises(ImageError, match="declares 48 x 64"):
        images.decode_depth(EncodedDepth(data=whole, codec="pgm_u16", size=(48, 64)))
    with pytest.raises(ImageError, match="6143 bytes"):
        images.decode_depth(EncodedDepth(data=whole[:-1], codec="pgm_u16", size=(64, 48)))
    fifths = EncodedDepth(data=whole, codec="pgm_u16", size=(64, 48), units_per_metre=5000.0)
    np.testing.assert_array_equal(images.decode_depth(fifths), np.rint(DEPTH / 5))


def test_depth_units_become_millimetres_and_far_is_unknown():
    values = np.array([[0, 5000, 1, 65535]], np.uint16)
    fifths = images.decode_depth(depth_stream(values, units_per_metre=5000.0))
    assert fifths.tolist() == [[0, 1000, 0, 13107]]
    coarse = images.decode_depth(depth_stream(values, units_per_metre=100.0))
    assert coarse.tolist() == [[0, 50000, 10, 0]]


STREAM = zlib.compress(DEPTH.tobytes())


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (128, 48)},
        {"size": (32, 48)},
        {"size": (20000, 48)},
        {"size": None},
        {"data": STREAM[:-5]},
        {"data": STREAM + b"more"},
        {"data": STREAM[:40] + b"\x00" * 40 + STREAM[80:]},
        {"data": b""},
        {"data": zlib.compress(bytes(1 << 28), 1)},
        {"data": DEPTH.tobytes()[:-2], "codec": "raw_u16"},
        {"data": images.encode_label_png(DEPTH.astype(np.uint8)), "codec": "png_u16"},
        {"data": b"no image", "codec": "png_u16"},
    ],
    ids=[
        "larger", "smaller", "huge", "unsized", "cut", "trailing", "corrupt", "empty", "bomb",
        "raw", "8-bit", "not-png",
    ],
)  # fmt: skip
def test_depth_that_is_not_as_declared_is_refused(changes: dict):
    with pytest.raises(ImageError):
        images.decode_depth(depth_stream(DEPTH, **changes))


def test_a_decompression_bomb_is_stopped_at_the_declared_size():
    bomb = depth_stream(DEPTH, data=zlib.compress(bytes(1 << 28), 1))
    tracemalloc.start()
    with pytest.raises(ImageError, match="6144 bytes"):
        images.decode_depth(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 23  # the 1.2 MB stream itself; unbounded it would be 256 MB


def test_labels_map_to_nyu40_and_unknown_ids_to_zero():
    table = np.array([0, 5, 40], np.uint8)
    ids = np.array([[0, 1, 2, 3, 1191]], np.uint16)
    for stored in (ids, ids.astype(np.uint8)[:, :4]):
        data = cv2.imencode(".png", stored)[1].tobytes()
        assert images.decode_labels(data, table).tolist()[0] == [0, 5, 40, 0, 0][: stored.size]


def test_shard_parts_round_trip():
    rgb = picture(56, 42)
    assert np.abs(images.decode_jpeg(images.encode_jpeg(rgb, 95)).astype(int) - rgb).mean() < 3
    np.testing.assert_array_equal(images.decode_depth_png(images.encode_depth_png(DEPTH)), DEPTH)
    labels = (DEPTH % 41).astype(np.uint8)
    np.testing.assert_array_equal(images.decode_label_png(images.encode_label_png(labels)), labels)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "width", "multiple", "expected"),
    [
        ((640, 480), 518, 14, (518, 378)),  # the published size
        ((1296, 968), 518, 14, (518, 378)),
        ((480, 640), 518, 14, (518, 518)),
        ((3000, 3001), 518, 14, (518, 518)),
        ((480, 640), 240, 28, (224, 224)),
        ((500, 495), 518, 14, (518, 504)),
        ((224, 168), 224, 14, (224, 168)),
        ((100, 80), 224, 14, (224, 168)),
    ],
)
def test_fit_size(source, width, multiple, expected):
    size = images.fit_size(source, width, multiple)
    assert (size.width, size.height) == expected


@pytest.mark.parametrize("source", [(5000, 100), (10, 16000)])
def test_impossible_shapes_are_refused(source):
    with pytest.raises(ImageError, match="does not fit width 518"):
        images.fit_size(source, 518, 14)


@pytest.mark.parametrize("source", [(1296, 968), (640, 480), (96, 72), (480, 640), (242, 517)])
def test_image_and_intrinsics_are_resized_together(source):
    """A blob drawn where K projects a point is found where the scaled K projects it."""
    width, height = source
    K = np.array([[0.9 * width, 0, 0.52 * width], [0, 0.9 * width, 0.47 * height], [0, 0, 1]])
    point = np.array([0.08, -0.05, 1.0])
    size = images.fit_size(source, 224, 14)
    u, v = (K @ point)[:2]
    y, x = np.mgrid[0:height, 0:width] + 0.5
    blob = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * (width / 40) ** 2))
    rgb = np.repeat((255 * blob).astype(np.uint8)[..., None], 3, axis=2)
    small = images.resize_color(rgb, size)[..., 0].astype(np.float64)
    assert small.shape == (size.height, size.width)
    y, x = np.mgrid[0 : size.height, 0 : size.width] + 0.5
    found = np.array([(small * x).sum(), (small * y).sum()]) / small.sum()
    np.testing.assert_allclose(found, (images.scale_K(K, size) @ point)[:2], atol=0.1)


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_a_portrait_photo_is_its_middle_square(orientation: int):
    """Stored upright, or lying on either side: 960 x 1280 -> 224 x 299 -> rows 37 to 261."""
    upright = picture(960, 1280)
    turned = np.rot90(upright, {1: 0, 6: 1, 8: -1}[orientation])
    image = encoded(jpeg(np.ascontiguousarray(turned), orientation), oriented=True)
    size = images.fit_size(images.stored_size(image), 224, 14)
    assert (size.width, size.height, size.scaled_height, size.top) == (224, 224, 299, 37)
    found = images.resize_color(images.decode_color(image, (224, 299)), size)
    middle = cv2.resize(upright, (224, 299), interpolation=cv2.INTER_AREA)[37:261]
    assert np.abs(found.astype(int) - middle).mean() < 2
    depth = np.repeat(np.arange(1280)[:, None], 960, axis=1)  # of each pixel its row
    rows = images.resize_nearest(depth, size)[:, 0]
    assert abs(rows[0] - 37.5 * 1280 / 299) <= 1 and abs(rows[-1] - 260.5 * 1280 / 299) <= 1


def test_the_principal_point_of_a_portrait_picture_stays_in_its_square():
    K = np.array([[900.0, 0, 480], [0, 900, 640], [0, 0, 1]])
    found = images.scale_K(K, images.fit_size((960, 1280), 224, 14))
    np.testing.assert_allclose(found[:, 2], (112, 299 / 2 - 37, 1))
    np.testing.assert_allclose(np.diag(found), (900 * 224 / 960, 900 * 299 / 1280, 1))


def test_colour_decoded_at_reduced_size_lands_on_the_same_pixels():
    image = encoded(jpeg(picture(1296, 968)))
    size = images.fit_size((1296, 968), 518, 14)
    small = images.decode_color(image, (size.scaled_width, size.scaled_height))
    fast, slow = (images.resize_color(i, size) for i in (small, images.decode_color(image)))
    assert small.shape[1] == 648
    assert np.abs(fast.astype(int) - slow).max() <= 6


def test_depth_of_another_size_is_sampled_at_pixel_centres():
    """Values name their own position, so that each can be checked against the mapping."""
    depth = np.arange(480 * 640).reshape(480, 640)
    size = images.fit_size((1296, 968), 518, 14)
    row, column = np.divmod(images.resize_nearest(depth, size), 640)
    expected_x = (np.arange(size.width) + 0.5 + size.left) * 640 / size.scaled_width
    expected_y = (np.arange(size.height) + 0.5 + size.top) * 480 / size.scaled_height
    assert np.abs(column + 0.5 - expected_x).max() <= 0.5
    assert np.abs(row.T + 0.5 - expected_y).max() <= 0.5


# --- mirror ---------------------------------------------------------------------------------------


def test_mirrored_view_projects_mirrored_points():
    K = np.array([[50.0, 2.0, 30.0], [0, 55.0, 22.0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(np.array([0.1, 0.4, -0.2]))[0], (1, 2, 3)
    world = np.array([1.2, 2.1, 6.0, 1.0])
    image = np.zeros((48, 64, 3), np.uint8)
    _, flipped_K, flipped_pose = images.mirror([image], K, pose)
    assert flipped_K is not None and flipped_pose is not None
    u, v, w = K @ (np.linalg.inv(pose) @ world)[:3]
    mirrored_world = world * (-1, 1, 1, 1)
    mu, mv, mw = flipped_K @ (np.linalg.inv(flipped_pose) @ mirrored_world)[:3]
    assert (mu / mw, mv / mw) == pytest.approx((64 - u / w, v / w))
    assert np.linalg.det(flipped_pose[:3, :3]) == pytest.approx(1)


def test_mirroring_twice_changes_nothing():
    K = np.array([[50.0, 2.0, 30.0], [0, 55.0, 22.0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.array([0.1, 0.4, -0.2]))[0]
    maps = [picture(64, 48), DEPTH]
    once = images.mirror(maps, K, pose)
    assert not np.array_equal(once[0][0], maps[0])
    again = images.mirror(*once)
    for before, after in zip([*maps, K, pose], [*again[0], *again[1:]], strict=True):
        np.testing.assert_allclose(after, before)


def test_photos_are_mirrored_without_cameras():
    flipped, K, pose = images.mirror([picture(64, 48)], None, None)
    assert K is None and pose is None
    np.testing.assert_array_equal(flipped[0], picture(64, 48)[:, ::-1])


def test_a_picture_that_pillow_calls_a_bomb_is_said_to_be_too_large(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match="make it smaller"):
        images.decode_color(encoded(jpeg(picture(16, 16))))
