"""From a TeacherSpec to the frozen teachers it names."""

import torch

from spa3r.config import TeacherSpec
from spa3r.errors import ConfigError
from spa3r.teachers.base import GeometricTeacher, SemanticTeacher
from spa3r.teachers.vggt import VggtConfig, load_vggt
from spa3r.teachers.vggt_teacher import VggtTeacher

Device = str | torch.device


def build_geometric(
    spec: TeacherSpec, *, device: Device = "cpu", config: VggtConfig | None = None
) -> GeometricTeacher:
    """The geometric teacher on a device; its views must be on the same one.

    On a GPU with bfloat16 VGGT's aggregator runs in it, as VGGT's own inference does.

    Args:
        config: of a VGGT checkpoint without its own config.json; None: VGGT-1B.

    Raises:
        TeacherError: weights that cannot be had. WeightsError: weights that do not fit.
        ConfigError: the spec declares another token width than the teacher has.
    """
    if spec.geometric == "rgbd":
        from spa3r.teachers.rgbd import RgbdTeacher

        return RgbdTeacher(spec)
    model = load_vggt(spec.geometric_uri, config=config, qk_norm=spec.qk_norm).to(device)
    on_gpu = torch.device(device).type == "cuda"
    teacher = VggtTeacher(
        model,
        uri=spec.geometric_uri,
        passes=spec.passes,
        cameras=spec.cameras,
        autocast=on_gpu and torch.cuda.is_bf16_supported(),
    )
    _check("width", spec.width, teacher.width)
    _check("patch_size", spec.patch_size, teacher.patch_size)
    return teacher


def build_semantic(spec: TeacherSpec, *, device: Device = "cpu") -> SemanticTeacher | None:
    """The semantic teacher on a device, None for `none`. Raises as `build_geometric` does."""
    if spec.semantic == "none":
        return None
    if spec.semantic == "labels":
        from spa3r.teachers.rgbd import LabelTeacher

        return LabelTeacher(spec)
    from spa3r.teachers.dinov3 import DinoV3Teacher

    teacher = DinoV3Teacher.from_uri(spec.semantic_uri)
    torch.nn.Module.to(teacher.model, device)  # Transformers annotates its own override wrongly
    _check("semantic_width", spec.semantic_width, teacher.width)
    return teacher


def _check(setting: str, declared: int, actual: int) -> None:
    if declared != actual:
        raise ConfigError(f"teacher.{setting} is {declared} but the teacher has {actual}")
