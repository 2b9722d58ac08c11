"""The package ray, which --ray needs and nothing else; knows no torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from rsprompter_cli.errors import DependencyError


def require_ray() -> None:
    """Look whether Ray is installed, without loading it.

    Raises:
        DependencyError: it is not.
    """
    if find_spec("ray") is None:
        raise _unusable("is not installed")


def import_ray() -> Any:
    """The package.

    Raises:
        DependencyError: it is not installed, or does not load.
    """
    require_ray()
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise _unusable(f"cannot be loaded: {error}") from error
    return ray


def _unusable(reason: str) -> DependencyError:
    return DependencyError(
        f"--ray: the package ray {reason}", "pip install 'rsprompter_cli[ray]', or predict without --ray"
    )
