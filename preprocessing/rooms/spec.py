"""What a generated room is asked to be, and the categories its objects have."""

from dataclasses import dataclass

from spa3r.errors import ConfigError

# Bumped whenever the same spec would give other bytes: finished scans of an older one are redone.
GENERATOR_VERSION = 1

# (raw_category, nyu40class, nyu40id). The `id` of a category, which is what the 2D label images
# of a ScanNet release hold, is its place in this list counted from 1: as in the real release it
# is not the nyu40 id, and a reader has to go through the table.
CATEGORIES: tuple[tuple[str, str, int], ...] = (
    ("wall", "wall", 1),
    ("floor", "floor", 2),
    ("cabinet", "cabinet", 3),
    ("bed", "bed", 4),
    ("chair", "chair", 5),
    ("couch", "sofa", 6),
    ("table", "table", 7),
    ("door", "door", 8),
    ("window", "window", 9),
    ("bookshelf", "bookshelf", 10),
    ("picture", "picture", 11),
    ("desk", "desk", 14),
    ("curtain", "curtain", 16),
    ("pillow", "pillow", 18),
    ("rug", "floor mat", 20),
    ("ceiling", "ceiling", 22),
    ("nightstand", "night stand", 32),
    ("tv", "television", 25),
    ("box", "box", 29),
    ("lamp", "lamp", 35),
    ("plant", "otherfurniture", 39),
)
LABEL_ID = {raw: index for index, (raw, _, _) in enumerate(CATEGORIES, start=1)}
NYU40_ID = {raw: nyu40 for raw, _, nyu40 in CATEGORIES}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSpec:
    """Options of a set of generated scans; one spec and one scene index give one set of bytes.

    Attributes:
        seed: Root of every random draw, together with the scene index.
        width: Width of colour, depth and label images, pixels.
        height: Their height, pixels.
        frames: Frames of a scan.
        depth_noise: Standard deviation of the depth error at 1 m, in metres; at z metres it is
            `depth_noise * z**2`, the law of structured-light and stereo sensors.
        invalid_pose_share: Share of frames whose pose is all -inf (tracking lost).
        empty_depth_share: Share of frames whose depth is zero everywhere.
        jpeg_quality: Quality of the colour images, 1-100.

    Raises:
        ConfigError: A value outside its range.
    """

    seed: int = 0
    width: int = 640
    height: int = 480
    frames: int = 24
    depth_noise: float = 0.0
    invalid_pose_share: float = 0.0
    empty_depth_share: float = 0.0
    jpeg_quality: int = 92

    def __post_init__(self) -> None:
        ranges = {
            "seed": (0, 2**63),
            "width": (16, 4096),
            "height": (16, 4096),
            "frames": (1, 10_000),
            "depth_noise": (0.0, 1.0),
            "invalid_pose_share": (0.0, 1.0),
            "empty_depth_share": (0.0, 1.0),
            "jpeg_quality": (1, 100),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"RoomSpec.{name} is {value}: choose from {low} to {high}")


def scene_name(index: int) -> str:
    """`scene%04d_00`, the name of a first scan in ScanNet."""
    if not 0 <= index <= 9999:
        raise ConfigError(f"scene index {index}: ScanNet's names hold 0 to 9999")
    return f"scene{index:04d}_00"
