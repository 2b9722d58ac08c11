"""A scene predicted by Ray actors: on this machine, and on a cluster of two nodes that lose workers."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsprompter_cli.errors import DependencyError, InputError, ResourceError, UsageError
from rsprompter_cli.predict.backends.ray import Node, check_address, make_team, predict_on_ray
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.stats import RunStats
from tests.make.fatal_model import fatal_model
from tests.make.ranks import free_port
from tests.make.stub_model import blob_model
from tests.predict.test_shards import town

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError, match="the package ray") as missing:
        predict_on_ray(town(tmp_path), tmp_path / "a.gpkg", model=blob_model())
    assert "rsprompter_cli[ray]" in missing.value.hint


@pytest.mark.parametrize(
    "address", ["", "head", "head:", "head:x", "head:0", "head:65536", "http://head:8265", "a b:1", "h:1/x", "::1:6379"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a Ray cluster"):
        check_address(address)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}"])
def test_an_address_at_which_nobody_answers(form: str) -> None:
    address = form.format(free_port())
    with pytest.raises(UsageError, match=f"--ray {address}: no answer from this address") as refused:
        check_address(address)
    assert "ray start --head" in refused.value.hint


@pytest.mark.parametrize("address", ["..:1", "ä..b:6379", f"{'a' * 70}:6379"])
def test_a_name_that_no_machine_can_have(address: str) -> None:
    with pytest.raises(UsageError, match="no answer from this address"):
        check_address(address)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\0\0\x12\4\0\0\0\0\0", None),  # HTTP/2, as gRPC begins
        (b"HTTP/1.1 400 Bad Request\r\n", "is not a Ray cluster"),
        (b"", "is not a Ray cluster"),
        (None, "no answer from this address"),
    ],
)
def test_what_answers_at_an_address(answer: bytes | None, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsprompter_cli.predict.backends.ray._KNOCK", 0.3)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as there, ThreadPoolExecutor(1) as beside:

        def serve() -> None:
            line, _ = there.accept()
            with line:
                line.recv(100)
                if answer is None:
                    line.recv(100)  # until the other side hangs up
                else:
                    line.sendall(answer)

        serving = beside.submit(serve)
        address = f"127.0.0.1:{there.getsockname()[1]}"
        if said is None:
            check_address(address)
        else:
            with pytest.raises(UsageError, match=said):
                check_address(address)
        serving.result(5)


@pytest.mark.parametrize("address", ["auto", "local"])
def test_words_for_addresses(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([(8, 0)], {}, (8, 1, False)),
        ([(8, 0)], {"workers": 2}, (2, 4, False)),
        ([(8, 0)], {"workers": 2, "threads": 4}, (2, 2, False)),
        ([(8, 0)], {"threads": 3}, (3, 1, False)),
        ([(8, 0), (8, 0)], {"workers": 3}, (3, 4, False)),  # 5 each would leave no room for the third
        ([(0, 0), (4, 0), (4, 0)], {}, (8, 1, False)),  # a head node that does no work
        ([(8, 2), (8, 2)], {}, (4, 4, True)),
        ([(8, 2), (8, 0)], {"workers": 1}, (1, 8, True)),
        ([(8, 2)], {"on_gpu": False}, (8, 1, False)),
        ([(8, 2)], {"on_gpu": True, "workers": 2, "threads": 2}, (2, 1, True)),
    ],
)
def test_teams(nodes: list[tuple[int, int]], asked: dict[str, Any], expected: tuple[int, int, bool]) -> None:
    found = make_team([Node(*one) for one in nodes], **{"workers": None, "threads": None, "on_gpu": None, **asked})
    assert (found.count, found.cpus, found.on_gpu) == expected


@pytest.mark.parametrize(
    ("nodes", "asked"),
    [([], {}), ([(0, 0)], {}), ([(2, 0)], {"workers": 3}), ([(8, 0)], {"on_gpu": True}), ([(8, 1)], {"workers": 2})],
)
def test_a_cluster_that_is_too_small(nodes: list[tuple[int, int]], asked: dict[str, Any]) -> None:
    with pytest.raises(ResourceError, match="the Ray cluster has"):
        make_team([Node(*one) for one in nodes], **{"workers": None, "threads": None, "on_gpu": None, **asked})


@given(
    st.lists(st.builds(Node, st.integers(0, 9), st.integers(0, 4)), max_size=5),
    st.none() | st.integers(1, 12),
    st.none() | st.integers(1, 12),
    st.none() | st.booleans(),
)
def test_a_team_fits(nodes: list[Node], workers: int | None, threads: int | None, on_gpu: bool | None) -> None:
    try:
        team = make_team(nodes, workers=workers, threads=threads, on_gpu=on_gpu)
    except ResourceError:
        return
    assert workers in (None, team.count)
    assert team.cpus >= 1
    room = [min(node.gpus, node.cpus // team.cpus) if team.on_gpu else node.cpus // team.cpus for node in nodes]
    assert team.count <= sum(room)
    assert threads is None or team.count * team.cpus <= max(threads, team.count)


def test_errors_come_before_ray_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoRay:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    monkeypatch.setattr("rsprompter_cli.predict.backends.ray.import_ray", NoRay)
    with pytest.raises(InputError):
        predict_on_ray(tmp_path / "missing.tif", tmp_path / "a.gpkg", model=blob_model())
    with pytest.raises(UsageError, match="a loaded model"):
        predict_on_ray(town(tmp_path), tmp_path / "a.gpkg", model=blob_model(), gpus=1)
    planned = predict_on_ray(tmp_path / "town.tif", None, model=blob_model(), native=True, address="nowhere")
    assert planned.plan.windows > 20
    with pytest.raises(UsageError, match="--score 2"):
        predict_on_ray(tmp_path / "town.tif", tmp_path / "a.gpkg", model=blob_model(), score=2)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return town(tmp_path)


@pytest.fixture
def whole(scene: Path, tmp_path: Path) -> bytes:
    """What one process writes."""
    predict_scene(scene, tmp_path / "whole.geojson", model=blob_model(), native=True)
    return (tmp_path / "whole.geojson").read_bytes()


@needs_ray
@pytest.mark.slow
def test_on_this_machine(scene: Path, whole: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import ray

    out, stats = tmp_path / "here" / "a.geojson", RunStats()
    before, seen = signal.getsignal(signal.SIGTERM), []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    result = predict_on_ray(
        scene, out, model=blob_model(), native=True, workers=2, stats=stats, progress=progress, address="local"
    )
    assert out.read_bytes() == whole
    assert list(out.parent.iterdir()) == [out]
    assert seen[-1] == (result.plan.windows, result.plan.windows)
    assert stats.instances > 10
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == before
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that does no work, and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    there = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        there.add_node(num_cpus=1, object_store_memory=100 << 20)
    yield there
    there.shutdown()


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("deaths", [0, 1])
def test_on_two_nodes(
    cluster: Any, scene: Path, whole: bytes, tmp_path: Path, deaths: int, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out" / "a.geojson"
    model = fatal_model(tmp_path, deaths=deaths)
    predict_on_ray(scene, out, model=model, native=True, address=cluster.address)
    assert out.read_bytes() == whole
    assert list(out.parent.iterdir()) == [out]
    assert caplog.text.count("a worker was lost") == deaths == len(list(tmp_path.glob("death-*")))


@needs_ray
@pytest.mark.slow
def test_a_shard_that_kills_every_worker(cluster: Any, scene: Path, whole: bytes, tmp_path: Path) -> None:
    out, address = tmp_path / "out" / "a.geojson", cluster.address
    with pytest.raises(ResourceError, match=r"^3 workers were lost at shard \d+/\d+: "):
        predict_on_ray(scene, out, model=fatal_model(tmp_path, deaths=9), native=True, address=address, workers=1)
    assert os.listdir(out.parent) == []


@needs_ray
@pytest.mark.slow
def test_an_error_in_an_actor_and_a_rerun(cluster: Any, scene: Path, whole: bytes, tmp_path: Path) -> None:
    out, address, stats = tmp_path / "out" / "a.geojson", cluster.address, RunStats()
    with pytest.raises(ResourceError) as failed:
        predict_on_ray(scene, out, model=fatal_model(tmp_path, fails_after=10), native=True, address=address)
    assert type(failed.value) is ResourceError
    assert str(failed.value) == "the model wants more memory (buy some)"
    assert not out.exists()

    def interrupt(done: int, total: int) -> None:
        if done > 0.7 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_on_ray(scene, out, model=fatal_model(tmp_path), native=True, address=address, progress=interrupt)
    predict_on_ray(scene, out, model=fatal_model(tmp_path), native=True, address=address, stats=stats)
    assert out.read_bytes() == whole
    assert stats.known > 0.3 * stats.windows


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_the_process_is_in_already(cluster: Any, scene: Path, whole: bytes, tmp_path: Path) -> None:
    import ray

    out = tmp_path / "out" / "a.geojson"
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    try:
        predict_on_ray(scene, out, model=blob_model(), native=True)
        assert ray.is_initialized()
        with pytest.raises(UsageError, match=r"is already connected to the cluster at"):
            predict_on_ray(scene, tmp_path / "b.gpkg", model=blob_model(), native=True, address="10.0.0.1:6379")
    finally:
        ray.shutdown()
    assert out.read_bytes() == whole


@needs_ray
@pytest.mark.slow
def test_a_node_that_is_lost(cluster: Any, scene: Path, whole: bytes, tmp_path: Path) -> None:
    out, nodes = tmp_path / "out" / "a.geojson", sorted(cluster.worker_nodes, key=str)

    def burn(done: int, _total: int) -> None:
        if done > 10 and len(nodes) == 2:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    model = fatal_model(tmp_path, seconds=0.1)
    predict_on_ray(scene, out, model=model, native=True, address=cluster.address, progress=burn)
    assert len(nodes) == 1
    assert out.read_bytes() == whole
