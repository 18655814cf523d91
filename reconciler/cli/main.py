"""The entry point. Each verb's module is imported only when that verb runs: `heliostat --help` stays instant."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click

from reconciler.garbage import collect_rarely


class Verb(NamedTuple):
    """Where a verb lives, and its line in the overview."""

    module: str
    group: str
    text: str


START, CHECK, LOOK, ACT = "Run", "Check", "Look", "Act"

VERBS = {
    "demo": Verb("demo", START, "See everything at work on this machine, with one command."),
    "run": Verb("run", START, "Run the daemon."),
    "validate": Verb("validate", CHECK, "Check spec files offline."),
    "render": Verb("render", CHECK, "Print services as they are after bases and variables are put in."),
    "plan": Verb("plan", CHECK, "Say what a change would do."),
    "comment": Verb("comment", CHECK, "Put a plan under a pull or merge request, always the same comment."),
    "schema": Verb("schema", CHECK, "Print the JSON Schema of spec files, for editors."),
    "doctor": Verb("doctor", CHECK, "Check the cluster and this machine, and say how to mend what is wrong."),
    "cache": Verb("cache", START, "List, stage and remove the model weights that this node keeps."),
    "token": Verb("token", START, "Make, list and revoke tokens of the API."),
    "status": Verb("look", LOOK, "Show all services, or one in detail."),
    "history": Verb("look", LOOK, "Show a service's ended rollouts."),
    "events": Verb("events", LOOK, "Show what happened, and what happens."),
    "nodes": Verb("look", LOOK, "Show the cluster's nodes."),
    "compaction": Verb("compaction", LOOK, "Show which nodes could go, and let them go with --apply."),
    "wait": Verb("wait", LOOK, "Wait until a service is Healthy, Synced, Paused or Quarantined."),
    "apply": Verb("apply", ACT, "Follow the commit of a plan, if nothing has moved since it was made."),
    "promote": Verb("act", ACT, "End a pause; with --full, go straight to 100%."),
    "pause": Verb("act", ACT, "Hold a rollout where it is."),
    "resume": Verb("act", ACT, "Let a paused rollout go on."),
    "abort": Verb("act", ACT, "Take the new revision back and quarantine it."),
    "retry": Verb("act", ACT, "Try a quarantined revision again."),
    "rollback": Verb("act", ACT, "Go back to the last good revision, or to a given one."),
}
"""Every verb; its click command is the attribute of the same name in `reconciler.cli.MODULE`."""


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the overview."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a verb's command."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command = getattr(importlib.import_module(f"reconciler.cli.{verb.module}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview from the table above, without importing anything."""
        for group in dict.fromkeys(verb.group for verb in VERBS.values()):
            with formatter.section(group):
                formatter.write_dl([(name, verb.text) for name, verb in VERBS.items() if verb.group == group])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="heliostat", message="%(prog)s %(version)s")
def heliostat() -> None:
    """Progressive delivery for Ray Serve: push to Git, watch a canary take over.

    `heliostat VERB --help` explains a verb. Exit codes: 0 fine, 1 failed or invalid, 2 wrong usage,
    3 timed out (wait).
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an interrupt ends it quietly."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    verb = VERBS.get(given[0]) if given else None
    if verb is not None and verb.group == CHECK:
        collect_rarely()
    try:
        heliostat.main(args=given, prog_name="heliostat")
    except BrokenPipeError:
        # `heliostat events | head`: the reader has what it wanted.
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
