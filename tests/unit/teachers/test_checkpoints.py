import json
import pickle
import random
import shlex
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import safetensors.torch
import torch
from huggingface_hub import errors as hub
from torch import nn

from spa3r.errors import TeacherError, WeightsError
from spa3r.teachers.checkpoints import (
    load_json,
    load_nested,
    load_state_dict,
    load_strict,
    state_hash,
)
from tests.hub_answers import http_error

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "pytorch_model.bin"])
def test_a_file_and_its_folder_give_the_same_tensors(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(STATE, file)
    else:
        torch.save(STATE, file)
    for uri in (file, tmp_path, f"file://{file}"):
        loaded = load_state_dict(uri)
        assert state_hash(loaded) == state_hash(STATE)


def test_any_fsspec_url_stands_for_a_path() -> None:
    import fsspec

    with fsspec.open("memory://teacher/model.safetensors", "wb") as f:
        f.write(safetensors.torch.save(STATE))  # pyright: ignore
    assert state_hash(load_state_dict("memory://teacher")) == state_hash(STATE)
    assert load_json("memory://teacher/model.safetensors", "config.json") is None


def test_json_beside_a_weights_file_is_found(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"a": 1}')
    for uri in (tmp_path, tmp_path / "model.safetensors"):
        assert load_json(uri, "config.json") == {"a": 1}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json: no readable JSON"):
        load_json(tmp_path, "config.json")


class Payload:
    """Would run code when unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    for i, value in enumerate([Payload(), {"weight": Payload()}]):
        torch.save(value, tmp_path / f"{i}.pt")
        with pytest.raises(WeightsError, match="pickled objects are never run") as caught:
            load_state_dict(tmp_path / f"{i}.pt")
        assert "\n" not in str(caught.value)
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(WeightsError, match=r"plain\.bin"):
        load_state_dict(tmp_path / "plain.bin")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    file = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save(STATE, file)
    else:
        safetensors.torch.save_file(STATE, file)
    whole = file.read_bytes()
    file.write_bytes(
        {"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"\x93" * 500}[damage]
    )
    with pytest.raises(WeightsError, match=f"model{suffix}"):
        load_state_dict(file)


@pytest.mark.parametrize("zipped", [True, False])
def test_changed_bytes_raise_nothing_but_weights_error(tmp_path: Path, zipped: bool) -> None:
    file, rng = tmp_path / "model.pt", random.Random(0)
    torch.save(STATE, file, _use_new_zipfile_serialization=zipped)
    whole, refused = file.read_bytes(), 0
    for _ in range(200):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] = rng.randrange(256)
        file.write_bytes(changed)
        try:
            load_state_dict(file)
        except WeightsError as error:
            refused += "model.pt" in str(error)
    assert refused > 20


def test_a_nested_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"model": STATE, "step": 3}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="not a flat table"):
        load_state_dict(tmp_path)


def lightning(**more: object) -> dict[str, object]:
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)}}
    optimizers = [{"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]}]
    return {"state_dict": STATE, "global_step": 7, "optimizer_states": optimizers, **more}


def test_a_table_inside_a_nested_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    torch.save(lightning(), file)
    assert state_hash(load_state_dict(file, inside="state_dict")) == state_hash(STATE)
    assert load_nested(file)["global_step"] == 7
    with pytest.raises(WeightsError, match="no table 'ema', only 'global_step', 'optimizer_"):
        load_state_dict(file, inside="ema")
    with pytest.raises(WeightsError, match="not a flat table"):
        load_state_dict(file, inside="optimizer_states")
    torch.save(STATE, file)  # saved alone, as the refusal of a pickle advises
    assert state_hash(load_state_dict(file, inside="state_dict")) == state_hash(STATE)


def test_the_refusal_of_a_pickle_names_the_class_and_a_cure_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "last.ckpt"
    harmless = SimpleNamespace(lr=1)
    torch.save(lightning(hyper_parameters=harmless), file)
    with pytest.raises(WeightsError, match=r"last\.ckpt: holds types\.SimpleNamespace") as caught:
        load_state_dict(file, inside="state_dict")
    assert "\n" not in str(caught.value)
    command = str(caught.value).partition("python -c ")[2]
    (code,) = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    loaded = load_state_dict(tmp_path / "weights.pt", inside="state_dict")
    assert state_hash(loaded) == state_hash(STATE)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mappings")
def test_a_local_file_is_mapped_not_read(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    torch.save(lightning(), file)
    loaded = load_state_dict(file, inside="state_dict")
    assert str(file) in Path("/proc/self/maps").read_text()
    assert torch.equal(loaded["weight"], STATE["weight"])
    loaded["weight"] += 1  # private: the file stays as it is
    assert torch.equal(load_nested(file)["state_dict"]["weight"], STATE["weight"])


SHARDS = {
    "-00001-of-00002": {"weight": STATE["weight"]},
    "-00002-of-00002": {"bias": STATE["bias"]},
}


def write_shards(folder: Path, stem: str = "model", suffix: str = ".safetensors") -> Path:
    """A checkpoint in two shards as Transformers writes it; returns its index."""
    for part, tensors in SHARDS.items():
        file = folder / f"{stem}{part}{suffix}"
        if suffix == ".safetensors":
            safetensors.torch.save_file(tensors, file)
        else:
            torch.save(tensors, file)
    place = {k: f"{stem}{part}{suffix}" for part, tensors in SHARDS.items() for k in tensors}
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": place}))
    return index


@pytest.mark.parametrize(("stem", "suffix"), [("model", ".safetensors"), ("pytorch_model", ".bin")])
def test_shards_are_one_checkpoint(
    tmp_path: Path, stem: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    write_shards(tmp_path, stem, suffix)
    fsspec.filesystem("memory").put(f"{tmp_path}/", f"/shards-{stem}/", recursive=True)

    def download(repo: str, name: str) -> str:
        if not (tmp_path / name).exists():
            raise http_error(hub.RemoteEntryNotFoundError, 404)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for uri in (tmp_path, f"file://{tmp_path}", f"memory://shards-{stem}", "owner/model"):
        assert state_hash(load_state_dict(uri)) == state_hash(STATE)
    (tmp_path / f"{stem}-00002-of-00002{suffix}").unlink()
    for uri in (tmp_path, "owner/model"):
        with pytest.raises(WeightsError, match=rf"missing beside it: {stem}-00002-of-00002"):
            load_state_dict(uri)


def test_cached_shards_load_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hugging Face's own cache folder and offline mode, nothing faked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    with pytest.raises(TeacherError, match=r"model\.safetensors is not in the local cache"):
        load_state_dict("owner/model")
    write_shards(snapshot)
    assert state_hash(load_state_dict("owner/model")) == state_hash(STATE)
    assert load_json("owner/model", "config.json") is None
    (snapshot / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="missing beside it: model-00001"):
        load_state_dict("owner/model")


def test_a_tensor_comes_from_the_shard_that_the_index_names(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    first, second = (f"model{part}.safetensors" for part in SHARDS)
    index.write_text(json.dumps({"weight_map": {"weight": first, "bias": first}}))
    with pytest.raises(WeightsError, match=f"{first} lacks bias"):
        load_state_dict(tmp_path)
    safetensors.torch.save_file(STATE, tmp_path / second)
    index.write_text(json.dumps({"weight_map": {"weight": first, "bias": second}}))
    with pytest.raises(WeightsError, match=f"{second} also holds weight"):
        load_state_dict(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": []}}'),
        '{"weight_map": {"a": "../model.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": "model.safetensors.index.json"}}',
    ],
)
def test_a_hostile_index_reaches_nothing(tmp_path: Path, text: str) -> None:
    write_shards(tmp_path).write_text(text)
    safetensors.torch.save_file(STATE, tmp_path.parent / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json: (no index|names)"):
        load_state_dict(tmp_path)


@pytest.mark.parametrize(
    "uri", ["/nowhere/model.pt", "./weights/vggt", "weights", "a/b.safetensors"]
)
def test_a_place_that_does_not_exist_is_named(uri: str) -> None:
    with pytest.raises(TeacherError, match=f"{uri}: no such file"):
        load_state_dict(uri)


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"none of model\.safetensors, .*pytorch_model\.bin,"):
        load_state_dict(tmp_path)


def test_folders_and_depths_where_files_are_expected(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(WeightsError, match="a folder, not a file"):
        load_state_dict(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(WeightsError, match="no readable JSON"):
        load_json(tmp_path, "config.json")


def test_every_misfit_is_named() -> None:
    state = {"weight": torch.zeros(3, 3), "extra.a": torch.zeros(1), "extra.b": torch.zeros(1)}
    with pytest.raises(WeightsError) as caught:
        load_strict(nn.Linear(3, 2), state, where="here.pt")
    for part in ("here.pt", "missing bias", "unexpected extra.a", "unexpected extra.b"):
        assert part in str(caught.value)
    assert "weight has shape (3, 3), expected (2, 3)" in str(caught.value)


def test_declared_prefixes_are_dropped_and_dtypes_follow_the_module() -> None:
    module = nn.Linear(3, 2)
    kept = module.weight
    state = {k: v.half() for k, v in STATE.items()} | {"track.a": torch.zeros(1)}
    load_strict(module, state, unused_prefixes=("track.",))
    assert module.weight is kept
    assert module.weight.dtype == torch.float32
    torch.testing.assert_close(module.weight.data, STATE["weight"])


def test_a_module_on_the_meta_device_takes_the_tensors_over() -> None:
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    load_strict(module, STATE)
    assert module.weight.data_ptr() == STATE["weight"].data_ptr()


def test_the_hash_sees_names_shapes_dtypes_and_bytes() -> None:
    weight = STATE["weight"]
    others = [
        {"weight": weight, "other": STATE["bias"]},
        {"weight": weight.view(3, 2), "bias": STATE["bias"]},
        {"weight": weight.view(torch.int32), "bias": STATE["bias"]},
        {"weight": weight + 1, "bias": STATE["bias"]},
    ]
    hashes = {state_hash(state) for state in (STATE, *others)}
    assert len(hashes) == 5
    assert state_hash(dict(reversed(STATE.items()))) == state_hash(STATE)
    assert state_hash({"a": torch.tensor(1.0)}) != state_hash({"a": torch.tensor(2.0)})
