"""`rsp config`: presets, the resolved configuration, its schema."""

from __future__ import annotations

from typing import Annotated

import typer

from rsprompter_cli.cli.options import JsonOption, SetOption
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.tables import print_table

ABOUT = """List, show and describe configurations.

Examples:
    rsp config list
    rsp config show rsprompter-anchor-whu
"""
app = typer.Typer(help=ABOUT, no_args_is_help=True)


@app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """List the presets.

    Examples:
        rsp config list
    """
    from rsprompter_cli.config import SamModelConfig, list_presets, load_config

    configs = {name: load_config(name) for name in list_presets()}
    rows = [
        {
            "preset": name,
            "model": config.model.kind,
            "sam": config.model.sam if isinstance(config.model, SamModelConfig) else None,
            "epochs": config.train.epochs,
        }
        for name, config in configs.items()
    ]
    if as_json:
        print_json(rows)
    else:
        shown = [[str("-" if value is None else value) for value in row.values()] for row in rows]
        print_table(["preset", "model", "sam", "epochs"], shown)


@app.command("show")
def show_command(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="Name of a preset, or a TOML file.")],
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the complete configuration that training would use.

    Examples:
        rsp config show rsprompter-anchor-whu
        rsp config show rsprompter-anchor-whu --set train.epochs=12
    """
    from rsprompter_cli.config import dump_config, load_config

    config = load_config(preset, overrides or ())
    if as_json:
        print_json(config.model_dump(mode="json"))
    else:
        typer.echo(dump_config(config), nl=False)


@app.command("schema")
def schema_command() -> None:
    """Print the JSON schema of a configuration.

    Examples:
        rsp config schema
    """
    from rsprompter_cli.config import Config

    print_json(Config.model_json_schema())
