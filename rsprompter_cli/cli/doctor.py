"""`rsp doctor`: check that everything rsp needs is installed and works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rsprompter_cli.cli.console import print_message, print_result
from rsprompter_cli.cli.options import CHECKS, JsonOption
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress
from rsprompter_cli.cli.tables import print_hanging
from rsprompter_cli.errors import plural

if TYPE_CHECKING:
    from rsprompter_cli.doctor.findings import Finding


def doctor_command(
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test/--no-self-test",
            rich_help_panel=CHECKS,
            help="Also predict on a small generated scene, which takes a few seconds.",
        ),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Check that everything rsp needs is installed and works.

    Each line is ok, a warning (rsp works, but check it) or a problem (rsp does not work), with a fix. The exit code is
    0, or 5 if there is a problem. The report contains folder names, but no passwords or tokens.

    Examples:
        rsp doctor
        rsp doctor --no-self-test --json
    """
    from dataclasses import asdict

    from rsprompter_cli.doctor.findings import State
    from rsprompter_cli.doctor.run import examine
    from rsprompter_cli.errors import DependencyError

    found: list[Finding] = []
    with show_progress("checking the installation") as display:
        for finding in examine(self_test=self_test):
            display.announce(f"checking the installation, {finding.topic}: {finding.name} done")
            found.append(finding)
    for place, finding in enumerate(found if not as_json else []):
        _print_finding(finding, new_topic=place == 0 or found[place - 1].topic != finding.topic)
    problems = [finding.name for finding in found if finding.state is State.PROBLEM]
    warnings = sum(finding.state is State.WARNING for finding in found)
    if as_json:
        counts = {"ok": not problems, "problems": len(problems), "warnings": warnings}
        print_json({**counts, "findings": [asdict(finding) for finding in found]})
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        first = "each problem is listed with a fix; start with the first, which may cause the others"
        raise DependencyError(f"{plural(len(problems), 'problem')}: {', '.join(problems[:4])}{more}", first)
    print_message("everything that rsp needs works" + (f"; {plural(warnings, 'warning')}" if warnings else ""))


def _print_finding(finding: Finding, *, new_topic: bool) -> None:
    if new_topic:
        print_result(finding.topic)
    print_hanging(f"  {finding.state:<8} {finding.name:<22} ", finding.text)
    if finding.way_out:
        print_hanging(f"{'':11}", f"fix: {finding.way_out}")
