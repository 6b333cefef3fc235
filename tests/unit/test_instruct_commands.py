"""`spa3r instruct`: published annotations -> a set; every row that is left out is counted."""

import json
from pathlib import Path

import pytest

from flows import instruct_stage
from spa3r import cli
from spa3r.data.instruction_sets import read_set
from spa3r.errors import ConfigError, FormatError, ShardError
from spa3r.lock import locked_folder
from tests.unit.preprocessing.instructions.rows import talk, write_rows


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPA3R_INSTRUCTIONS", raising=False)
    (tmp_path / "media" / "scannet").mkdir(parents=True)
    for number in range(12):
        (tmp_path / "media" / "scannet" / f"scene00{31 + number}_00.mp4").touch()
    (tmp_path / "media" / "scannet" / "scene0568_00.mp4").touch()
    return tmp_path


def row(number: int, kind: str = "absolute_count", **changes: object) -> dict:
    asked = f"<image>\nThese are frames of a video.\nHow many chairs? ({number})"
    return {"conversations": talk(asked, "4"), "question_type": kind,
            "video": f"scannet/scene00{31 + number}_00.mp4", **changes}  # fmt: skip


def run(*arguments: str) -> int:
    return cli.main(["instruct", *arguments])


def test_from_annotations_to_a_set(home: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        *(row(number) for number in range(8)),
        row(8, "asked_since_2027"),
        row(9, conversations=talk("B", "A", first="gpt")),
        row(10, video="scannet/scene0568_00.mp4"),
        row(11, video="scannet/none.mp4"),
        row(11, conversations=talk("<image>\n<image>\nA?", "b"), video=None, image="x.jpg"),
        "no object",
    ]
    file = write_rows(home / "a.jsonl", rows)
    assert run("vsi-590k", file, "--media", str(home / "media"), "--name", "vsi") == 0
    out = capsys.readouterr()
    (line,) = out.out.splitlines()
    assert line.startswith("9 conversations in ") and line.endswith(
        "left out: 1 assistant_first, 1 benchmark_scene_scannet, 1 image_count, 1 malformed_row,"
        " 1 missing_media"
    )
    found = read_set(home / "home" / "instructions" / "vsi")
    assert found.manifest["dropped"]["benchmark_scene_scannet"] == 1
    assert found.manifest["question_types"]["asked_since_2027"] == 1
    assert found.manifest["made_from"]["annotations"] == file
    assert found.media_root == "../../../media" or found.media_root == str(home / "media")
    assert found.instructions[8].id == "row#9"
    assert run("--check", "vsi") == 0
    (checked,) = capsys.readouterr().out.splitlines()
    assert "9 conversations: 9 about video" in checked and "1 missing_media" in checked
    assert "scannet-terms-of-use" in checked


def test_what_is_left_out_is_named_once_for_each_reason(
    home: Path, caplog: pytest.LogCaptureFixture
):
    rows = [row(1), *(row(2, video="scannet/none.mp4") for _ in range(5)), row(3, "novel"), 7]
    file = write_rows(home / "a.jsonl", rows)
    made = instruct_stage.instruct("vsi-590k", file, media=str(home / "media"))
    named = [record.message for record in caplog.records if "left out" in record.message]
    assert len(named) == 2 and "row 2 left out, missing_media: scannet/none.mp4" in named[0]
    assert any("types not known of vsi-590k, kept: 1 novel" in r.message for r in caplog.records)
    assert made.facts["unknown question types"] == {"novel": 1}
    assert made.facts["dropped"] == {"missing_media": 5, "malformed_row": 1}


def test_twice_the_same_bytes_and_another_file_takes_its_place(home: Path):
    media, name = str(home / "media"), "vsi"
    file = write_rows(home / "a.jsonl", [row(1), row(2)])
    first = instruct_stage.instruct("vsi-590k", file, media=media, name=name)
    folder = Path(first.facts["folder"])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    instruct_stage.instruct("vsi-590k", file, media=media, name=name)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    write_rows(home / "a.jsonl", [row(3)])
    assert instruct_stage.instruct("vsi-590k", file, media=media, name=name).facts["rows"] == 1
    assert [one.scene for one in read_set(folder).instructions] == ["scene0034_00"]


def test_benchmark_scenes_only_when_asked_for(home: Path, capsys: pytest.CaptureFixture[str]):
    rows = [row(1), row(2, video="scannet/scene0568_00.mp4")]
    file = write_rows(home / "a.json", rows)
    media = str(home / "media")
    assert run("vsi-590k", file, "--media", media, "--allow-benchmark-scenes") == 0
    assert run("--check", "vsi-590k") == 0
    assert "1 about benchmark scenes" in capsys.readouterr().out


def test_a_share_of_vg_llm(home: Path):
    rows = [row(number % 12, id=f"a{number}") for number in range(200)]
    file = write_rows(home / "a.json", rows)
    made = instruct_stage.instruct("vg-llm", f"{file}%10", media=str(home / "media"), name="some")
    assert made.facts["rows"] == 20 and made.facts["dropped"] == {"not_sampled": 180}


def test_what_went_since_is_found_by_check(home: Path, capsys: pytest.CaptureFixture[str]):
    file = write_rows(home / "a.jsonl", [row(1), row(2)])
    instruct_stage.instruct("vsi-590k", file, media=str(home / "media"))
    (home / "media" / "scannet" / "scene0032_00.mp4").unlink()
    assert run("--check", str(home / "home" / "instructions" / "vsi-590k")) == 0
    assert "1 with absent media" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((), "name SOURCE, ANNOTATIONS and --media ROOT, or --check SET"),
        (("vsi-590k", "a.jsonl"), "name SOURCE"),
        (("coco", "a.jsonl", "--media", "m"), "source 'coco' is not one of vsi-590k, spar"),
        (("spar", "none.jsonl", "--media", "m"), "none.jsonl: nothing there"),
        (("vg-llm", "none.jsonl%0", "--media", "m"), "must be 1 to 100"),
        (("spar", "a.jsonl", "--check", "spar"), "imports nothing; leave SOURCE out"),
        (("--check", "nothing"), "no instruction set, or one cut short; make it again"),
        (("--check", "../x.jsonl"), "no such file"),
    ],
)
def test_one_line_of_error(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], match: str
):
    assert run(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert match in line


def test_nothing_usable_and_another_format(home: Path):
    media = str(home / "media")
    with pytest.raises(FormatError, match=r"no usable conversation \(2 not_a_conversation\)"):
        file = write_rows(home / "a.jsonl", [{"video": "a.mp4"}, {"video": "b.mp4"}])
        instruct_stage.instruct("vsi-590k", file, media=media)
    with pytest.raises(ConfigError, match="nothing there"):
        instruct_stage.instruct("vsi-590k", file, media=str(home / "nowhere"))
    assert not (home / "home" / "instructions" / "vsi-590k" / "manifest.json").exists()


def test_a_set_of_another_version(home: Path):
    file = write_rows(home / "a.jsonl", [row(1)])
    made = instruct_stage.instruct("vsi-590k", file, media=str(home / "media"))
    manifest = Path(made.facts["folder"]) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": "older"}))
    with pytest.raises(FormatError, match=r"of format 'older'.*make it again: spa3r instruct"):
        instruct_stage.check("vsi-590k")


def test_two_imports_into_one_set(home: Path):
    file = write_rows(home / "a.jsonl", [row(1)])
    folder = home / "home" / "instructions" / "vsi-590k"
    with locked_folder(folder, ShardError), pytest.raises(ShardError, match="is writing there"):
        instruct_stage.instruct("vsi-590k", file, media=str(home / "media"))
