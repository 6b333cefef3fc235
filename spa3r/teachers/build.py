"""From a TeacherSpec to the frozen teachers it names."""

from typing import Literal

import torch

from spa3r.config import TeacherSpec
from spa3r.errors import ConfigError
from spa3r.teachers.base import GeometricTeacher, SemanticTeacher
from spa3r.teachers.vggt import VggtConfig, load_vggt
from spa3r.teachers.vggt_teacher import VggtTeacher

Device = str | torch.device
Precision = Literal["float32", "bfloat16"]


def build_geometric(
    spec: TeacherSpec,
    *,
    device: Device = "cpu",
    config: VggtConfig | None = None,
    precision: Precision | None = None,
    compiled: bool = False,
) -> GeometricTeacher:
    """The geometric teacher on a device; its views must be on the same one.

    Args:
        config: of a VGGT checkpoint without its own config.json; None: VGGT-1B.
        precision: of the matrix products of VGGT's aggregator; None: bfloat16 on a GPU that has it,
            as VGGT's own inference does, else float32. `rgbd` is float32 always.
        compiled: VGGT through torch.compile, for long use: the first calls take minutes.

    Raises:
        TeacherError: weights that cannot be had. WeightsError: weights that do not fit.
        ConfigError: the spec declares another token width than the teacher has, or a layer that it
            does not have.
    """
    if spec.geometric == "rgbd":
        from spa3r.teachers.rgbd import RgbdTeacher

        return RgbdTeacher(spec)
    model = load_vggt(spec.geometric_uri, config=config, qk_norm=spec.qk_norm).to(device)
    if precision is None:
        precision = _fastest(device)
    teacher = VggtTeacher(
        model,
        uri=spec.geometric_uri,
        passes=spec.passes,
        cameras=spec.cameras,
        layer=spec.layer,
        metric_scale=spec.metric_scale,
        autocast=precision == "bfloat16",
    )
    _check("width", spec.width, teacher.width)
    _check("patch_size", spec.patch_size, teacher.patch_size)
    if compiled:
        teacher.compile()
    return teacher


def build_semantic(spec: TeacherSpec, *, device: Device = "cpu") -> SemanticTeacher | None:
    """The semantic teacher on a device, in bfloat16 on a GPU that has it; None for `none`.

    Raises as `build_geometric` does.
    """
    if spec.semantic == "none":
        return None
    if spec.semantic == "labels":
        from spa3r.teachers.rgbd import LabelTeacher

        return LabelTeacher(spec)
    if spec.semantic == "dinov2":
        from spa3r.teachers.dinov2_hf import Dinov2Teacher

        if spec.semantic_uri == TeacherSpec().semantic_uri:
            raise ConfigError(
                f"teacher.semantic is 'dinov2' but teacher.semantic_uri is {spec.semantic_uri!r};"
                " set it to 'facebook/dinov2-large' or another DINOv2"
            )
        teacher = Dinov2Teacher.from_uri(spec.semantic_uri)
    else:
        from spa3r.teachers.dinov3 import DinoV3Teacher

        teacher = DinoV3Teacher.from_uri(spec.semantic_uri)
    torch.nn.Module.to(teacher.model, device)  # Transformers annotates its own override wrongly
    _check("semantic_width", spec.semantic_width, teacher.width)
    teacher.precision = _fastest(device)
    return teacher


def build_linguistic(spec: TeacherSpec, *, device: Device = "cpu") -> SemanticTeacher | None:
    """The linguistic teacher, as `build_semantic`."""
    if spec.linguistic == "none":
        return None
    from spa3r.teachers.clip import ClipTeacher

    teacher = ClipTeacher.from_uri(spec.linguistic_uri)
    torch.nn.Module.to(teacher.model, device)
    _check("linguistic_width", spec.linguistic_width, teacher.width)
    teacher.precision = _fastest(device)
    return teacher


def _fastest(device: Device) -> Precision:
    on_gpu = torch.device(device).type == "cuda"
    return "bfloat16" if on_gpu and torch.cuda.is_bf16_supported() else "float32"


def _check(setting: str, declared: int, actual: int) -> None:
    if declared != actual:
        raise ConfigError(f"teacher.{setting} is {declared} but the teacher has {actual}")
