"""Files of `torch.save`: the only reader of foreign ones (`.pth`, `.pt`, `.bin`), and the writer of ours.

Nothing in what is read is executed. Tensors and plain containers are read; a few known names that training
frameworks leave in their files become inert stand-ins; any other name is refused.
"""

from __future__ import annotations

import mmap
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from rsprompter_cli.errors import CheckpointError, OutputError, why_no_file
from rsprompter_cli.io.atomic import check_writable

_ZIP = b"PK\x03\x04"
_BYTE_ARRAY = b"\nbytearray\n"
"""How a pickle names it, whatever it calls the module."""


class _Inert:
    """Replaces an object whose content is not needed: accepts anything, does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Table:
    """Stands for a dictionary of a framework's own kind, which is read as a plain one."""

    def __new__(cls, *content: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]  # torch fills this very type
        return OrderedDict(content[0]) if content and isinstance(content[0], dict) else OrderedDict()


class StoredConfig:
    """Stands for a framework's configuration object.

    tree: the table that it held, None where its state has another form.
    """

    tree: dict[Any, Any] | None = None

    def __new__(cls, *_: Any, **__: Any) -> StoredConfig:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        # mmengine and mmcv write a tuple whose first item is the table.
        if isinstance(state, tuple) and state and isinstance(state[0], dict):
            self.tree = state[0]


# What checkpoints of the original RSPrompter carry beside the weights: mmengine's message hub keeps
# HistoryBuffers, made of numpy arrays and scalars and of bound statistics (read through getattr);
# DeepSpeed's files name an enum. The value is replaced, the name is all that is known of it.
_STAND_INS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.logging.message_hub.MessageHub",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Bool", "Int32", "Int64", "Float32", "Float64")),
    "_codecs.encode",
    "builtins.getattr",
    "__builtin__.getattr",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)

_CONFIGS = ("mmengine.config.config.Config", "mmcv.utils.config.Config")

_TABLES = (
    "mmengine.config.config.ConfigDict",
    "mmcv.utils.config.ConfigDict",
    "addict.addict.Dict",
)


def load_pickle(path: str | Path) -> Any:
    """The object in a file that `torch.save` wrote, tensors on the CPU.

    Raises:
        CheckpointError: missing, truncated, not such a file, or it names something outside the allow-list.
    """
    import torch

    path = Path(path)
    if not os.path.isfile(path):  # also false of a name that is too long
        raise CheckpointError(f"{path}: {why_no_file(path)}")
    groups: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (_Inert, _STAND_INS),
        (_Table, _TABLES),
        (StoredConfig, _CONFIGS),
    )
    known: list[Any] = [(stand_in, name) for stand_in, names in groups for name in names]
    check_content(path)
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings():
            # Of kinds of tensors whose readers refuse them in words of their own.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    # A damaged file can fail anywhere inside the unpickler, with any of these.
    except (RuntimeError, EOFError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path) from error
    except (AssertionError, struct.error, MemoryError) as error:
        raise _damaged(path) from error


def check_content(path: Path) -> None:
    """Refuse what would take far more memory than the file has bytes: compressed members, and arrays of any length.

    Raises:
        CheckpointError: it has such.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) == _ZIP:
                with zipfile.ZipFile(file) as archive:
                    members = archive.infolist()
                if any(one.compress_type != zipfile.ZIP_STORED for one in members) or (
                    sum(one.file_size for one in members) > path.stat().st_size
                ):
                    raise CheckpointError(
                        f"{path}: its content is compressed, which torch.save never does", "unpack and save it again"
                    )
            if file.seek(0, os.SEEK_END) == 0:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                # PyTorch allows the call, of any length, in a pickle of a few bytes.
                if content.find(_BYTE_ARRAY) >= 0:
                    raise _refused(path, "bytearray")
    except (OSError, ValueError, zipfile.BadZipFile, RuntimeError, UnicodeError) as error:
        raise _damaged(path) from error


def save_pickle(content: Any, path: Path, *, target: Path) -> None:
    """Write an object with `torch.save`.

    Args:
        target: where the file is moved afterwards; named in messages.

    Raises:
        OutputError: it cannot be written, for instance because the disk is full.
    """
    import torch

    try:
        torch.save(content, path)
    except RuntimeError as error:  # of PyTorch, for a write that failed
        check_writable(target)
        reason = str(error).splitlines()[0]
        raise OutputError(f"{target}: cannot be written: {reason}", "check that the disk is not full") from error


def load_state_dict(path: str | Path) -> dict[str, Any]:
    """The tensors of such a file by key, whether it holds them itself or under `model` or `state_dict`.

    Raises:
        CheckpointError: as `load_pickle`, or no tensors are found.
    """
    from torch import Tensor

    content = load_pickle(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(item, Tensor) for item in content.values()):
        raise CheckpointError(f"{path}: contains no state dict")
    return {str(key): value for key, value in content.items()}


def _refusal(path: Path, error: pickle.UnpicklingError) -> CheckpointError:
    name = re.search(r"GLOBAL ([\w.]+)", str(error))
    if name is None:
        return _damaged(path)
    return _refused(path, name[1])


def _refused(path: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: refused, loading it would use {name}, which does not belong in a weights file",
        "use weights from a source you trust, if possible as .safetensors",
    )


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: damaged, truncated or not written by torch.save", "download or copy it again")
