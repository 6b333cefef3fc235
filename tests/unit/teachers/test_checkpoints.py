import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import safetensors.torch
import torch
from huggingface_hub import errors as hub
from torch import nn

from spa3r.errors import TeacherError, WeightsError
from spa3r.teachers.checkpoints import load_json, load_state_dict, load_strict, state_hash

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_file_and_its_folder_give_the_same_tensors(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name.endswith(".pt"):
        torch.save(STATE, file)
    else:
        safetensors.torch.save_file(STATE, file)
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
    with pytest.raises(WeightsError, match=r"config\.json: not valid JSON"):
        load_json(tmp_path, "config.json")


class Payload:
    """Would run code when unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    for i, value in enumerate([Payload(), {"weight": Payload()}]):
        torch.save(value, tmp_path / f"{i}.pt")
        with pytest.raises(WeightsError, match="pickled objects are never run"):
            load_state_dict(tmp_path / f"{i}.pt")
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


@pytest.mark.parametrize(
    "uri", ["/nowhere/model.pt", "./weights/vggt", "weights", "a/b.safetensors"]
)
def test_a_place_that_does_not_exist_is_named(uri: str) -> None:
    with pytest.raises(TeacherError, match=f"{uri}: no such file"):
        load_state_dict(uri)


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"neither model\.safetensors nor model\.pt"):
        load_state_dict(tmp_path)


def refuse(error: Exception):
    def download(repo: str, name: str) -> str:
        raise error

    return download


def http_error(kind, status: int):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("refused", response=response)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (http_error(hub.GatedRepoError, 403), "https://huggingface.co/owner/m"),
        (http_error(hub.RepositoryNotFoundError, 401), "licence"),
        (http_error(hub.HfHubHTTPError, 403), "licence"),
        (http_error(hub.HfHubHTTPError, 500), "HTTP 500"),
        (http_error(hub.RemoteEntryNotFoundError, 404), "holds neither"),
        (hub.LocalEntryNotFoundError("x"), "out of reach"),
        (hub.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE"),
        (ConnectionError("no route"), "no route"),
    ],
)
def test_hugging_face_troubles_are_one_line(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse(error))
    with pytest.raises(TeacherError, match=message) as caught:
        load_state_dict("owner/model")
    assert "\n" not in str(caught.value)
    assert "owner/model" in str(caught.value)


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
