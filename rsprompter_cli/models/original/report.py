"""Where each setting of an imported model comes from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsprompter_cli.config import ModelConfig
from rsprompter_cli.io.model_files.original_config import OriginalConfig
from rsprompter_cli.models.original.sizes import Fitted, effective_settings
from rsprompter_cli.models.original.stated_settings import StatedSettings, is_chosen, same

TENSORS, CONFIGURATION, USER, PRESET = "tensors", "configuration", "--set", "preset"
BUILT_IN = "built in"
"""Fixed in rsp's models."""


@dataclass(frozen=True, slots=True)
class ImportedSetting:
    """A setting of an imported model.

    key: below `model`. value: as it is written to config.toml.
    source: the tensors, the file's configuration, the user, or else the preset, which is an assumption.
    entry: of the configuration that states it, None where none does.
    preset: the preset's value.
    """

    key: str
    value: Any
    source: str
    entry: str | None
    preset: Any

    @property
    def changed(self) -> bool:
        """Whether it differs from the preset."""
        return not same(self.value, self.preset)

    def words(self) -> str:
        """For people: key, value, and the preset's value if that is another."""
        preset = f" (preset: {self.preset})" if self.changed else ""
        return f"{self.key} = {self.value}{preset}"


@dataclass(frozen=True, eq=False)
class SettingsReport:
    """Where the settings of an imported model come from.

    where: the entry of the file that holds its configuration, "" where there is none.
    problem: why the configuration was not read, or "".
    settings: all that the original's configuration could state, in the order of its tables.
    built_in: what rsp's models always have and the configuration does not confirm.
    unread: entries of the configuration whose value or meaning is not known.
    differences: entries that only count in training and that rsp trains with other values for.
    """

    where: str
    problem: str
    settings: Sequence[ImportedSetting]
    built_in: Sequence[str]
    unread: Sequence[str]
    differences: Mapping[str, str]

    @property
    def assumed(self) -> list[ImportedSetting]:
        """The settings that nothing in the file states."""
        return [setting for setting in self.settings if setting.source == PRESET]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "configuration": {"found_in": self.where or None, "problem": self.problem or None},
            "settings": [
                {
                    "key": f"model.{one.key}",
                    "value": one.value,
                    "source": one.source,
                    "entry": None if one.entry is None else f"model.{one.entry}",
                    "preset": one.preset,
                }
                for one in self.settings
            ],
            "assumed": [f"model.{one.key}" for one in self.assumed] + list(self.built_in),
            "not_understood": [f"model.{path}" for path in self.unread],
            "training_differences": {f"model.{path}": told for path, told in self.differences.items()},
        }

    def facts(self) -> dict[str, Any]:
        """For a checkpoint's record."""
        return {
            "original_settings": {one.key: one.value for one in self.settings if one.source == CONFIGURATION},
            "assumed_settings": {one.key: one.value for one in self.assumed} | dict.fromkeys(self.built_in, BUILT_IN),
            "original_configuration": {
                "found_in": self.where or None,
                "problem": self.problem or None,
                "not_understood": list(self.unread),
                "training_differences": dict(self.differences),
            },
        }

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people, name and value."""
        state = self.where or "none in the file"
        yield "configuration", f"{state}, not read: {self.problem}" if self.problem else state
        for one in self.settings:
            if one.changed and one.source != PRESET:
                yield {TENSORS: "from tensors", USER: "from --set"}.get(one.source, "from configuration"), one.words()
        agreed = [one.key for one in self.settings if one.source == CONFIGURATION and not one.changed]
        if agreed:
            yield "same as preset", ", ".join(agreed)
        for one in self.assumed:
            yield "assumed", f"{one.key} = {one.value}"
        if self.built_in:
            yield "assumed", ", ".join(self.built_in) + f" ({BUILT_IN})"
        if self.unread:
            yield "not understood", ", ".join(self.unread)
        for path, told in self.differences.items():
            yield "trained with", f"{path} = {told}"


def report_settings(
    preset: ModelConfig, fitted: Fitted, config: OriginalConfig, stated: StatedSettings, chosen: Collection[str]
) -> SettingsReport:
    """Where each setting comes from.

    Args:
        preset: completed, before anything was taken from the file.
        fitted: the model that is written.
        config, stated: of the file.
        chosen: keys that the user set.
    """
    before, after = effective_settings(preset), effective_settings(fitted.model)
    settings = []
    for key in dict.fromkeys([*stated.keys, *fitted.read_off]):
        entry = None if is_chosen(key, chosen) else stated.values.get(key)
        if key in fitted.read_off:
            source = TENSORS
        elif is_chosen(key, chosen):
            source = USER
        else:
            source = PRESET if entry is None else CONFIGURATION
        settings.append(ImportedSetting(key, _at(after, key), source, entry.path if entry else None, _at(before, key)))
    return SettingsReport(config.where, config.problem, settings, stated.missing, stated.unread, stated.differences)


def _at(tree: Mapping[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value[part]
    return value
