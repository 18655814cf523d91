"""What is handed to users in deploy/ fits the program that it starts."""

import configparser
import shlex
from pathlib import Path

import click

from reconciler.cli.run import run

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "heliostat.service"


def service_section() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_the_unit_starts_the_daemon_with_options_that_exist() -> None:
    program, verb, *options = shlex.split(service_section()["ExecStart"])
    assert Path(program).name == "heliostat"
    assert verb == run.name
    known = {name for option in run.params if isinstance(option, click.Option) for name in option.opts}
    assert {option for option in options if option.startswith("--")} <= known


def test_a_restart_of_the_unit_leaves_haproxy_alone() -> None:
    assert service_section()["KillMode"] == "process"
