"""`heliostat run`: the daemon in the foreground."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

import click

from reconciler.adapters.state_folder import default_folder
from reconciler.errors import PortError
from reconciler.node_settings import OPTIONS as NODES
from reconciler.settings import GatewayMode, LogFormat, LogLevel, Settings, SettingsError, load_settings
from reconciler.trust_settings import OPTIONS as TRUST

Function = TypeVar("Function", bound=Callable[..., Any])


def _one_of(kind: type[StrEnum]) -> click.Choice[str]:
    """Offer the values as variables and files write them; click would offer the members' names."""
    return click.Choice([member.value for member in kind])


OPTIONS = (
    click.option("--repo", metavar="URL", help="Git repository with the specs: a path, https://, ssh:// or file://."),
    click.option("--branch", help="Branch to follow.  [default: main]"),
    click.option("--path", metavar="FOLDER", help="Folder of the repository to read.  [default: all of it]"),
    click.option("--git-interval", metavar="DURATION", help="How often a remote repository is asked.  [default: 30s]"),
    click.option("--ray", metavar="URL", help="Ray's dashboard.  [default: http://127.0.0.1:8265]"),
    click.option("--ray-token-file", metavar="FILE", help="File with the token of a Ray cluster that asks for one."),
    click.option("--listen", metavar="HOST:PORT", help="API and status page.  [default: 127.0.0.1:8484]"),
    click.option("--allowed-hosts", metavar="NAMES", help="Further names of this daemon, separated by commas."),
    click.option("--gateway", metavar="HOST:PORT", help="Where services are served.  [default: 127.0.0.1:8080]"),
    click.option("--gateway-tls", metavar="PEM", help="Certificate and key: the gateway then speaks HTTPS."),
    click.option("--zone", metavar="NAME", help="The gateway's own zone, which it prefers.  [default: none]"),
    click.option("--gateway-mode", type=_one_of(GatewayMode), help="How replicas are reached."),
    click.option("--gateway-lanes", metavar="N", help="Cells with traffic at once without a reload.  [default: 256]"),
    click.option("--gateway-keeper", metavar="on|off", help="A process for while no daemon runs.  [default: on]"),
    click.option("--gateway-url", metavar="URL", help="The gateway as replicas reach it.  [default: from --gateway]"),
    click.option("--prometheus", metavar="URL", help="Prometheus server that answers specs' metric queries."),
    click.option(
        "--allow-host",
        "allow_hosts",
        metavar="HOST[:PORT]",
        multiple=True,
        help="A host that gates in specs may call; several times for several.",
    ),
    click.option("--stage-python", metavar="PATH", help="The cluster's Python that stages weights.  [default: python]"),
    click.option("--state", metavar="FOLDER", help="Where state is kept.  [default: ~/.local/state/heliostat]"),
    click.option("--cluster", metavar="NAME", help="This cluster's name.  [default: default]"),
    click.option("--serve-host", metavar="HOST", help="What Serve binds to if it is started here.  [default: 0.0.0.0]"),
    click.option("--log-format", type=_one_of(LogFormat), help="How log lines look.  [default: auto]"),
    click.option("--log-level", type=_one_of(LogLevel), help="The least that is told.  [default: info]"),
    *(
        click.option(option.flag, option.name, metavar=option.metavar, help=option.help, multiple=bool(option.singular))
        for option in (*TRUST, *NODES)
    ),
    click.option("--config", metavar="FILE", help='TOML file with the same settings, such as `git_interval = "1m"`.'),
)


def settings_options(function: Function) -> Function:
    """Give a verb one option per setting, handed over by the settings' names."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


@click.command()
@settings_options
def run(**flags: object) -> None:
    """Run the daemon until it is told to stop.

    Each option is also a variable (--git-interval: HELIOSTAT_GIT_INTERVAL) and a key of the file given by
    --config; options win over variables, variables over the file. A Ray token is given by HELIOSTAT_RAY_TOKEN
    or --ray-token-file.
    """
    settings = settings_from(flags)
    from reconciler.daemon import serve

    try:
        asyncio.run(serve(settings))
    except PortError as error:
        raise click.ClickException(error.reason) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def settings_from(flags: dict[str, object], *, needs_repo: bool = True) -> Settings:
    """Return the settings, or end with what is wrong with them (exit code 2)."""
    try:
        return load_settings(flags, default_state=default_folder(os.environ), needs_repo=needs_repo)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
