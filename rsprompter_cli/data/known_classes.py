"""Classes of the data sets that presets are made for, in the order of their category ids."""

from __future__ import annotations

KNOWN_CLASSES = {
    "whu": ("building",),
    "ssdd": ("ship",),
    "nwpu": (
        "airplane",
        "ship",
        "storage_tank",
        "baseball_diamond",
        "tennis_court",
        "basketball_court",
        "ground_track_field",
        "harbor",
        "bridge",
        "vehicle",
    ),
}


def classes_of_preset(name: str) -> tuple[str, ...] | None:
    """The classes of the data set that stands in a preset's name, or None."""
    return next((KNOWN_CLASSES[word] for word in name.lower().split("-") if word in KNOWN_CLASSES), None)


def classes_of_data_set(name: str | None) -> tuple[str, ...] | None:
    """The classes of a data set by the name of the original's class for it, as WHUInsSegDataset, or None."""
    word = (name or "").lower().removesuffix("inssegdataset")
    return KNOWN_CLASSES.get(word)
