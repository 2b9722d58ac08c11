"""A reader sees the old file or the new one, whatever happens to the writer."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rsprompter_cli.errors import OutputError
from rsprompter_cli.io import atomic
from rsprompter_cli.io.atomic import (
    atomic_folder,
    atomic_path,
    check_writable,
    complete_folder,
    recover_folder,
    refuse_existing,
    remove_leftovers,
    write_bytes,
    write_text,
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def half_written(path: Path, stop: type[BaseException]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise stop


def disk_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_new_file_and_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "größe\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "größe\n".encode()
    assert names_in(tmp_path / "a") == ["b.txt"]


def test_old_file_is_replaced(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x.bin", b"old")
    write_bytes(tmp_path / "x.bin", b"new")
    assert (tmp_path / "x.bin").read_bytes() == b"new"


def test_temporary_name_keeps_the_extension_and_stays_in_the_folder(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "scene.geojson") as temporary:
        temporary.write_text("{}", encoding="utf-8")
        assert temporary.suffix == ".geojson"
        assert temporary.parent == tmp_path
        assert not (tmp_path / "scene.geojson").exists()


def test_error_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "x.txt", "old")
    with pytest.raises(ZeroDivisionError):
        half_written(tmp_path / "x.txt", ZeroDivisionError)
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    write_text(tmp_path / "x.txt", "old")
    monkeypatch.setattr(atomic.os, step, disk_full)
    with pytest.raises(OutputError, match=r"x\.txt: cannot be written: No space left") as caught:
        write_text(tmp_path / "x.txt", "new")
    monkeypatch.undo()
    assert caught.value.exit_code == 7
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["x.txt"]


LONGEST = "n" * 247 + ".geojson"
"""255 bytes: a temporary name must not be longer."""


@pytest.mark.parametrize("name", [LONGEST, "ü" * 123 + ".geojson"])
def test_longest_names_are_written(name: str, tmp_path: Path) -> None:
    check_writable(tmp_path / name)
    write_text(tmp_path / name, "whole")
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "set" / name) as temporary:
            (temporary / content).touch()
    assert (tmp_path / name).read_text(encoding="utf-8") == "whole"
    assert names_in(tmp_path / "set") == [name]
    assert names_in(tmp_path / "set" / name) == ["new"]


def test_longest_folder_name_left_aside_is_found(tmp_path: Path) -> None:
    folder = tmp_path / LONGEST
    command = [sys.executable, "-c", KILLED_FOLDER_WRITER, str(folder), "2"]
    with atomic_folder(folder) as temporary:
        (temporary / "file").touch()
    subprocess.run(command, timeout=60, check=False, capture_output=True)
    assert not folder.exists()
    assert (complete_folder(folder) / "file").exists()
    recover_folder(folder)
    assert (folder / "file").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file.tif/a.geojson", "file.tif is not a folder"),
        ("file.tif/deep/a.geojson", "file.tif is not a folder"),
        ("n" * 300 + ".geojson", "too long"),
        ("new/" + "n" * 300 + "/a.geojson", "too long"),
    ],
)
def test_what_cannot_be_written_is_known_beforehand(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file.tif").touch()
    with pytest.raises(OutputError, match=f"cannot be written: .*{reason}"):
        check_writable(tmp_path / name)
    with pytest.raises(OutputError, match="cannot be written"):
        refuse_existing(tmp_path / name, overwrite=True)
    assert names_in(tmp_path) == ["file.tif"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_folder_that_takes_no_files_is_known_beforehand() -> None:
    with pytest.raises(OutputError, match=r"/proc/x/a\.geojson: cannot be written"):
        check_writable("/proc/x/a.geojson")


def test_asking_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("old", encoding="utf-8")
    for name in ("old.txt", "new.txt", "new/folder/file.txt"):
        check_writable(tmp_path / name)
    assert names_in(tmp_path) == ["old.txt"]
    assert (tmp_path / "old.txt").read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("name", ["a\nrsp: error: b.geojson", "a\x1b[31m.geojson", "new\rfolder/a.geojson"])
def test_no_line_of_a_message_comes_from_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="has control characters in its name") as error:
        refuse_existing(tmp_path / name, overwrite=True)
    assert "\n" not in error.value.message
    assert list(tmp_path.iterdir()) == []


def test_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        refuse_existing(tmp_path / "a.geojson", overwrite=True)
    refuse_existing(tmp_path / "a.geojson", overwrite=True, folder=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.geojson")
    (tmp_path / "link.geojson").symlink_to("pipe.geojson")
    for name in ("pipe.geojson", "link.geojson"):
        with pytest.raises(OutputError, match=r"geojson is not a regular file \(give another path\)"):
            refuse_existing(tmp_path / name, overwrite=True)


def test_file_system_that_cannot_flush_a_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", files_only)
    write_text(tmp_path / "x.txt", "new")
    with atomic_folder(tmp_path / "best") as temporary:
        (temporary / "file").write_text("new", encoding="utf-8")
    assert names_in(tmp_path) == ["best", "x.txt"]


def test_interrupt_removes_the_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        half_written(tmp_path / "x.txt", KeyboardInterrupt)
    assert names_in(tmp_path) == []


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from rsprompter_cli.io.atomic import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    with temporary.open("wb") as file:
        file.write(b"half of the new content")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
"""

KILLED_FOLDER_WRITER = """
import os, signal, sys
from pathlib import Path
from rsprompter_cli.io import atomic
real, wanted, calls = os.replace, int(sys.argv[2]), [0]
def replace(*names):
    calls[0] += 1
    if calls[0] == wanted:
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    real(*names)
os.replace = replace
with atomic.atomic_folder(Path(sys.argv[1])) as temporary:
    (temporary / "file").write_text("new")
raise SystemExit("was not killed")
"""


def test_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.geojson"
    write_bytes(target, b"old content")
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(target)], timeout=60, check=False)
    assert done.returncode != 0
    assert target.read_bytes() == b"old content"


def test_killed_first_writer_leaves_none(tmp_path: Path) -> None:
    target = tmp_path / "out.geojson"
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(target)], timeout=60, check=False)
    assert not target.exists()


@pytest.mark.parametrize("step", [1, 2], ids=["before the old is aside", "between the renames"])
def test_killed_folder_writer_leaves_the_old_folder(tmp_path: Path, step: int) -> None:
    folder = tmp_path / "best"
    with atomic_folder(folder) as temporary:
        (temporary / "file").write_text("old", encoding="utf-8")
    command = [sys.executable, "-c", KILLED_FOLDER_WRITER, str(folder), str(step)]
    done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "was not killed" not in done.stderr
    before = names_in(tmp_path)
    assert (complete_folder(folder) / "file").read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == before
    recover_folder(folder)
    assert (folder / "file").read_text(encoding="utf-8") == "old"


def test_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    with atomic_folder(folder) as temporary:
        (temporary / "only_old").write_text("1", encoding="utf-8")
    with atomic_folder(folder) as temporary:
        (temporary / "only_new").write_text("2", encoding="utf-8")
    assert names_in(folder) == ["only_new"]
    assert names_in(tmp_path) == ["best"]


def test_folder_that_fails_to_take_its_place_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "best"
    with atomic_folder(folder) as temporary:
        (temporary / "file").write_text("old", encoding="utf-8")
    real = os.replace

    def second_fails(source: Path, target: Path) -> None:
        if Path(source).name.endswith(".tmp"):
            disk_full()
        real(source, target)

    monkeypatch.setattr(atomic.os, "replace", second_fails)
    with pytest.raises(OutputError, match="No space left"), atomic_folder(folder) as temporary:
        (temporary / "file").write_text("new", encoding="utf-8")
    monkeypatch.undo()
    assert (folder / "file").read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["best"]


def test_error_while_filling_a_folder_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    with atomic_folder(folder) as temporary:
        (temporary / "file").write_text("old", encoding="utf-8")
    with pytest.raises(ValueError, match="stop"), atomic_folder(folder):
        raise ValueError("stop")
    assert (folder / "file").read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["best"]


def test_recovery_drops_the_leftover_of_a_finished_replacement(tmp_path: Path) -> None:
    folder, leftover = tmp_path / "best", tmp_path / ".best.old"
    folder.mkdir()
    leftover.mkdir()
    recover_folder(folder)
    assert names_in(tmp_path) == ["best"]


def test_reader_waits_for_a_replacement_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, fresh = tmp_path / "best", tmp_path / ".best.1234.tmp"
    (tmp_path / ".best.old").mkdir()
    fresh.mkdir()
    monkeypatch.setattr(atomic.time, "sleep", lambda _: fresh.rename(folder))
    assert complete_folder(folder) == folder
    assert names_in(tmp_path) == [".best.old", "best"]


def test_reader_of_nothing_is_told_the_name(tmp_path: Path) -> None:
    assert complete_folder(tmp_path / "best") == tmp_path / "best"


def test_existing_output_is_refused_unless_told(tmp_path: Path) -> None:
    existing = tmp_path / "x"
    existing.touch()
    with pytest.raises(OutputError) as caught:
        refuse_existing(existing, overwrite=False)
    assert "--overwrite" in caught.value.hint
    refuse_existing(existing, overwrite=True)
    refuse_existing(tmp_path / "free", overwrite=False)


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    mine = [".a.0123abcd.tmp.gpkg", ".a.deadbeef.tmp.gpkg"]
    others = [".a.0123abcd.tmp", ".a.0123abcd.tmp.fgb", ".ab.0123abcd.tmp.gpkg", ".a.0123abcg.tmp.gpkg"]
    for name in (*mine, *others, "a.gpkg", "a.0123abcd.tmp.gpkg"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path / "a.gpkg")
    assert names_in(tmp_path) == sorted([*others, "a.gpkg", "a.0123abcd.tmp.gpkg"])
    (tmp_path / ".b.0123abcd.tmp").mkdir()
    (tmp_path / ".b.0123abcd.tmp" / "b.shp").write_text("x")
    remove_leftovers(tmp_path / "b.gpkg")
    assert (tmp_path / ".b.0123abcd.tmp").is_dir()
    remove_leftovers(tmp_path / "b.shp")
    assert not (tmp_path / ".b.0123abcd.tmp").exists()
    long = "n" * 60
    (tmp_path / f".{long[:40]}.0123abcd.tmp.gpkg").write_text("x")
    remove_leftovers(tmp_path / f"{long}.gpkg")
    assert (tmp_path / f".{long[:40]}.0123abcd.tmp.gpkg").is_file()
    remove_leftovers(tmp_path / "nowhere" / "a.gpkg")
