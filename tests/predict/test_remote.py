"""Scenes behind an address: only the ranges that are needed travel, and faults are one line that names the address."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from rsprompter_cli.cli.app import run
from rsprompter_cli.errors import InputError, OutputError
from rsprompter_cli.geo.raster import source
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.scenes import predict_scenes
from rsprompter_cli.predict.store import journal as journals
from rsprompter_cli.structures import Detections, Target
from tests.make.range_server import Ranges, serving
from tests.make.scenes import paint, write_scene
from tests.make.stub_model import BlobModel, blob_model

SIDE = 1536
NAMES = count()


@pytest.fixture
def server() -> Iterator[Ranges]:
    with serving() as state:
        yield state


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A tiled GeoTIFF of 7 MB that nothing compresses."""
    rng = np.random.default_rng(3)
    pixels = paint(SIDE, SIDE, {"red": [(100, 100, 180, 150), (900, 900, 1000, 950)]})
    ground = (pixels == 90).all(axis=0)
    pixels[:, ground] = rng.integers(60, 120, (3, int(ground.sum())), np.uint8)
    return write_scene(tmp_path / "scene.tif", pixels, tiled=True, blockxsize=128, blockysize=128)


def put(server: Ranges, scene: Path) -> str:
    """Serve a scene under a name that no test before had: GDAL remembers what it has seen of an address."""
    path = f"/scene{next(NAMES)}.tif"
    server.files[path] = scene.read_bytes()
    return server.url + path


def test_only_what_is_needed_travels(server: Ranges, scene: Path, tmp_path: Path) -> None:
    url = put(server, scene)
    area = tmp_path / "area.geojson"
    small = write_scene(tmp_path / "small.tif", paint(200, 200, {"red": [(100, 100, 180, 150)]}))
    predict_scene(small, area, model=blob_model(), native=True)

    found = predict_scene(
        url, tmp_path / "out.geojson", model=blob_model(), native=True, remote=True, aoi=str(area), aoi_cut=True
    )
    assert found.objects == 1
    assert 0 < server.served < scene.stat().st_size / 5
    assert {path for _, path, _ in server.requests} == {url.removeprefix(server.url)}  # nothing beside it
    assert all(part is not None for method, _, part in server.requests if method == "GET")
    local = tmp_path / "local.geojson"
    predict_scene(scene, local, model=blob_model(), native=True, aoi=str(area), aoi_cut=True)
    assert (tmp_path / "out.geojson").read_bytes() == local.read_bytes()


def test_a_bucket_is_read_as_an_address(
    server: Ranges, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/bucket/deep/scene.tif"] = scene.read_bytes()
    for name, value in {
        "AWS_S3_ENDPOINT": f"127.0.0.1:{server.port}",
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_NO_SIGN_REQUEST": "YES",
    }.items():
        monkeypatch.setenv(name, value)
    found = predict_scene(
        "s3://bucket/deep/scene.tif", tmp_path / "out.gpkg", model=blob_model(), native=True, remote=True
    )
    assert found.objects == 2
    assert {path for _, path, _ in server.requests} == {"/bucket/deep/scene.tif"}


def test_a_busy_server_is_asked_again(server: Ranges, scene: Path, tmp_path: Path) -> None:
    url = put(server, scene)
    server.failures = [503]
    plan = predict_scene(url, None, model=blob_model(), native=True, remote=True).plan
    assert plan.width == SIDE
    assert len(server.requests) >= 2


def test_without_remote_an_address_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], server: Ranges
) -> None:
    url = server.url + "/scene.tif"
    for sources in ([url], [url, "other.tif"], ["s3://bucket/scene.tif"], ["https://example.com/a.tif", "b.tif"]):
        assert run(["predict", *sources, "--out", str(tmp_path / "out.gpkg")]) == 3
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "--remote" in err
        assert sources[0] in err
    assert run(["predict", "http://example.com/a.tif", "--remote", "--out", str(tmp_path / "out.gpkg")]) == 3
    assert "http:// is not supported" in capsys.readouterr().err
    assert server.requests == []


@pytest.mark.parametrize("status", [404, 403, 500])
def test_an_answer_that_is_none_names_the_address(
    server: Ranges, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "HTTP_RETRIES", 0)
    url = f"{server.url}/gone{next(NAMES)}.tif"
    server.failures = [status] * 50
    with pytest.raises(InputError) as caught:
        predict_scene(url, tmp_path / "out.gpkg", model=blob_model(), native=True, remote=True)
    assert str(caught.value).startswith(f"{url}: cannot be opened")
    assert str(status) in str(caught.value)


def test_a_server_that_does_not_answer_is_given_up(
    server: Ranges, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "HTTP_RETRIES", 0)
    monkeypatch.setattr(source, "FIRST_ANSWER", 1.0)
    url = put(server, scene)
    server.pause = 3.0
    assert str(_refused(url, tmp_path)).startswith(f"{url}: no response within 1 s")
    assert "http://127.0.0.1:1/x.tif" in str(_refused("http://127.0.0.1:1/x.tif", tmp_path))


def test_redirects_within_a_server_are_followed_and_others_refused(server: Ranges, scene: Path, tmp_path: Path) -> None:
    url = put(server, scene)
    moved = f"{server.url}/moved{next(NAMES)}.tif"
    server.redirects[moved.removeprefix(server.url)] = url
    assert predict_scene(moved, tmp_path / "a.gpkg", model=blob_model(), native=True, remote=True).out
    with serving() as other:
        other.files["/a.tif"] = scene.read_bytes()
        for target in (f"{other.url}/a.tif", "https://127.0.0.1/a.tif", "https://localhost/a.tif", "ftp://a.b/c.tif"):
            server.redirects[moved.removeprefix(server.url)] = target
            away = f"{moved}?{next(NAMES)}"
            error = str(_refused(away, tmp_path))
            assert error.startswith(f"{away}: redirects to {target}")
        assert other.requests == []


def _refused(url: str, folder: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        predict_scene(url, folder / "out.gpkg", model=blob_model(), native=True, remote=True)
    return caught.value


def test_a_connection_that_breaks_in_the_middle_keeps_what_is_done(
    server: Ranges, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "HTTP_RETRIES", 0)
    url, good = put(server, scene), put(server, scene)
    server.after, server.failure = 2_000_000, 403
    result = predict_scenes([url, scene], tmp_path / "out", model=blob_model(), native=True, remote=True)
    assert [one.state.value for one in result.scenes] == ["failed", "done"]
    assert url in result.scenes[0].reason
    assert "\n" not in result.scenes[0].reason
    server.after = None
    again = predict_scenes([good, scene], tmp_path / "out2", model=blob_model(), native=True, remote=True)
    assert [one.state.value for one in again.scenes] == ["done", "done"]
    first, second = (one.out.read_bytes() for one in again.scenes if one.out)
    assert first == second


class Stopping(BlobModel):
    """Raises in place of the fifth call."""

    def forward(self, images: list[torch.Tensor], targets: list[Target] | None = None) -> list[Detections]:
        if self.seen == 5:
            raise KeyboardInterrupt
        return super().forward(images, targets)


@pytest.mark.parametrize("change", [{"ETag": "b"}, {"Last-Modified": "Thu, 22 Oct 2015 07:28:00 GMT"}])
def test_a_file_that_changes_while_a_run_is_stopped_is_noticed(
    server: Ranges, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    monkeypatch.setattr(journals, "_FLUSH_SECONDS", 0.0)
    url, out = put(server, scene), tmp_path / "out.geojson"
    path = url.removeprefix(server.url)
    server.heads[path] = {"ETag": '"a"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    loaded = blob_model()
    stopping = type(loaded)(Stopping(), loaded.config, loaded.meta)
    stopping.model.__class__.__qualname__ = BlobModel.__qualname__  # to the journal it is the same model
    with pytest.raises(KeyboardInterrupt):
        predict_scene(url, out, model=stopping, native=True, remote=True)
    same = server.heads[path]
    server.heads[path] = same | change
    with pytest.raises(OutputError, match="a different input"):
        predict_scene(url, out, model=blob_model(), native=True, remote=True)
    server.heads[path] = same
    predict_scene(url, out, model=loaded, native=True, remote=True)
    assert isinstance(loaded.model, BlobModel)
    assert loaded.model.seen == 32 * 32 - 5


def test_of_many_files_those_that_changed_are_done_again(server: Ranges, tmp_path: Path) -> None:
    small = write_scene(tmp_path / "small.tif", paint(100, 100, {"red": [(10, 10, 40, 40)]}))
    urls = [put(server, small) for _ in range(3)]
    paths = [url.removeprefix(server.url) for url in urls]
    server.heads = {path: {"ETag": '"1"'} for path in paths}
    states = []
    for _ in range(2):
        result = predict_scenes(urls, tmp_path / "out", model=blob_model(), native=True, remote=True)
        states.append([one.state.value for one in result.scenes])
        server.heads[paths[1]] = {"ETag": '"2"'}
    assert states == [["done"] * 3, ["kept", "done", "kept"]]
