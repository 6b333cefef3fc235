from pathlib import Path

import pytest

from spa3r.config import TeacherSpec
from spa3r.errors import ConfigError
from spa3r.teachers.build import build_geometric, build_semantic
from spa3r.teachers.vggt import save_vggt
from tests.small_vggt import small_vggt


def test_a_spec_becomes_its_teacher(tmp_path: Path) -> None:
    save_vggt(tmp_path, small_vggt())
    spec = TeacherSpec(geometric_uri=str(tmp_path), width=64, passes="two_pass", qk_norm="rms")
    teacher = build_geometric(spec)
    assert teacher.width == 64
    assert teacher.reference()["uri"] == str(tmp_path)
    assert teacher.reference()["variant"] == "rms/two_pass/teacher"


def test_a_width_the_teacher_does_not_have_is_refused(tmp_path: Path) -> None:
    save_vggt(tmp_path, small_vggt())
    with pytest.raises(ConfigError, match=r"teacher\.width is 2048 but the teacher has 64"):
        build_geometric(TeacherSpec(geometric_uri=str(tmp_path)))


def test_no_semantic_teacher_is_none() -> None:
    assert build_semantic(TeacherSpec(semantic="none")) is None


def test_the_weight_free_teachers_need_no_files() -> None:
    spec = TeacherSpec(
        geometric="rgbd", semantic="labels", cameras="dataset", width=64, semantic_width=48
    )
    assert build_geometric(spec).reference()["kind"] == "rgbd"
    semantic = build_semantic(spec)
    assert semantic is not None
    assert semantic.width == 48
