"""Kinds of numbers in a configuration, each with the largest that a network or a run can use.

A configuration may come with weights from anyone. A number beyond these would build layers without end, or fail deep
inside of a library; here it is one line that names its key.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Layers = Annotated[int, Field(gt=0, le=128)]
"""Layers of a network; the largest SAM has 32."""

Heads = Annotated[int, Field(gt=0, le=256)]
"""Attention heads, points and levels of a layer."""

Width = Annotated[int, Field(gt=0, le=32768)]
"""Channels of a layer; the largest SAM has 5120."""

Side = Annotated[int, Field(gt=0, le=16384)]
"""Side of a model's square input, pixels."""

Count = Annotated[int, Field(gt=0, le=1_000_000)]
"""Objects, proposals, samples or prompts of an image."""

Steps = Annotated[int, Field(gt=0, le=1_000_000_000)]
"""Epochs, steps or images of a run."""

StepsOrNone = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""The same, where 0 turns something off."""

Text = Annotated[str, Field(max_length=4096)]
"""A name or a path."""
