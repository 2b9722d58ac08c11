"""Lets the n-th write of a process fail, as on a full disk, whichever library makes it.

The kernel asks the parent before each system call that writes, creates or flushes a file (a seccomp filter with user
notification, Linux 5.5 or later on x86-64). Interposed functions of the C library would miss the writes of Rust and of
stdio itself.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import sys
from pathlib import Path

WRITE, PWRITE, WRITEV, PWRITEV = 1, 18, 20, 296
FTRUNCATE, FALLOCATE, FSYNC, FDATASYNC = 77, 285, 74, 75
OPEN, CREAT, OPENAT, MKDIR, MKDIRAT = 2, 85, 257, 83, 258

_BY_DESCRIPTOR = (WRITE, PWRITE, WRITEV, PWRITEV, FTRUNCATE, FALLOCATE, FSYNC, FDATASYNC)
_FLAGS_ARGUMENT = {OPEN: 1, OPENAT: 2}
_PATH_ARGUMENT = {OPEN: 0, CREAT: 0, OPENAT: 1, MKDIR: 0, MKDIRAT: 1}
_FOLDER_ARGUMENT = {OPENAT: 0, MKDIRAT: 0}
_AT_FDCWD = -100

_SECCOMP, _NO_NEW_PRIVILEGES = 317, 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _ANSWER, _CONTINUE = 0xC0502100, 0xC0182101, 1
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")


def is_possible() -> bool:
    """Whether the kernel can ask."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def _filter() -> bytes:
    """The filter: ask for calls of the list (opening only with O_CREAT), allow all others."""
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06

    def step(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    steps = [step(load, 0, 0, 0)]
    for number in (*_BY_DESCRIPTOR, CREAT, MKDIR, MKDIRAT):
        steps += [step(equal, 0, 1, number), step(answer, 0, 0, _NOTIFY)]
    for number, argument in _FLAGS_ARGUMENT.items():
        steps += [
            step(equal, 0, 4, number), step(load, 0, 0, 16 + 8 * argument), step(any_bit, 0, 1, os.O_CREAT),
            step(answer, 0, 0, _NOTIFY), step(answer, 0, 0, _ALLOW),
        ]  # fmt: skip
    return b"".join([*steps, step(answer, 0, 0, _ALLOW)])


def ask_before_writes(parent: socket.socket) -> None:
    """In the child: from now on the kernel asks the process at the other end of a socket."""
    code = _filter()
    library = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    listener = library.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, program)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "no seccomp filter with notification")
    # Sending is no call of the list, so nobody needs to listen yet.
    parent.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])
    os.close(listener)


def answer_writes(child: socket.socket, folder: Path, first: int, last: int) -> list[str]:
    """In the parent: let calls into a folder fail by their number, until the child and its children have ended.

    Args:
        child: the other end of what the child was given.
        folder: writes elsewhere succeed and are not counted.
        first, last: numbers of the writes that find the disk full, from 1 on.

    Returns:
        the writes, as "CALL PATH".
    """
    _, ancillary, _, _ = child.recvmsg(1, socket.CMSG_SPACE(4))
    if not ancillary:
        raise OSError(errno.ENOSYS, "the child could not install the filter")
    (listener,) = array.array("i", ancillary[0][2])
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    writes: list[str] = []
    try:
        while True:
            (_, event), *_ = poll.poll()
            if event & select.POLLHUP:
                return writes
            request = bytearray(_NOTIFICATION.size)
            try:
                fcntl.ioctl(listener, _RECEIVE, request)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):  # the caller was killed meanwhile
                    continue
                raise
            identity, process, _, number, _, _, *arguments = _NOTIFICATION.unpack(request)
            path = _path_of(process, number, arguments)
            if number in _PATH_ARGUMENT and path is not None and os.path.exists(path):
                path = None  # opening what exists takes no place
            full = False
            if path is not None and Path(folder) in Path(path).parents:
                writes.append(f"{_NAMES[number]} {os.path.relpath(path, folder)}")
                full = first <= len(writes) <= last
            answer = (identity, 0, -errno.ENOSPC, 0) if full else (identity, 0, 0, _CONTINUE)
            try:
                fcntl.ioctl(listener, _ANSWER, _RESPONSE.pack(*answer))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
    finally:
        os.close(listener)


_NAMES = {
    WRITE: "write", PWRITE: "pwrite", WRITEV: "writev", PWRITEV: "pwritev", FTRUNCATE: "ftruncate", FSYNC: "fsync",
    FALLOCATE: "fallocate", FDATASYNC: "fdatasync", OPEN: "create", CREAT: "create", OPENAT: "create", MKDIR: "mkdir",
    MKDIRAT: "mkdir",
}  # fmt: skip


def _path_of(process: int, number: int, arguments: list[int]) -> str | None:
    """The file that a call is about; None where it cannot be told, as for a pipe."""
    try:
        if number in _BY_DESCRIPTOR:
            return os.readlink(f"/proc/{process}/fd/{_signed(arguments[0])}")
        path = _text_at(process, arguments[_PATH_ARGUMENT[number]])
        if os.path.isabs(path):
            return os.path.normpath(path)
        folder = _signed(arguments[_FOLDER_ARGUMENT[number]]) if number in _FOLDER_ARGUMENT else _AT_FDCWD
        start = os.readlink(f"/proc/{process}/cwd" if folder == _AT_FDCWD else f"/proc/{process}/fd/{folder}")
        return os.path.normpath(os.path.join(start, path))
    except OSError:
        return None


def _signed(value: int) -> int:
    return struct.unpack("=i", struct.pack("=I", value & 0xFFFFFFFF))[0]


def _text_at(process: int, address: int) -> str:
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        found = b""
        while b"\0" not in found and len(found) < 4096:
            # Up to the end of a page: the next one may not exist.
            found += memory.read(4096 - (address + len(found)) % 4096)
        return os.fsdecode(found.split(b"\0")[0])
