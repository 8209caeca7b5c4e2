#!/usr/bin/env python3
"""The one door for development. On a fresh machine with Python >= 3.10: `python dev.py demo`, `python dev.py test`."""

import argparse
import importlib
import signal
import sys
from pathlib import Path

from development import environment, hosts

ROOT = Path(__file__).resolve().parent
LANES = ("unit", "web", "host", "browser")


def parser() -> argparse.ArgumentParser:
    door = argparse.ArgumentParser(description=__doc__)
    commands = door.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    command("demo", "start the real ComfyUI, run the playground's prompt plain and guided, leave the results in output/demo/")
    pictures = command("pictures", "draw the pictures beside the example workflows anew, of all or of the named ones")
    pictures.add_argument("names", nargs="*", metavar="NAME", help="a workflow of the playground, such as temporal_mask")
    run = command("run", "ComfyUI with this pack, for hands; further arguments go to ComfyUI")
    test = command("test", "the tests, in both pinned ComfyUI versions and a browser, or one lane of them; further arguments go to pytest")
    test.add_argument("lane", nargs="?", help=f"one of {', '.join(LANES)}")
    command("lint", "ruff and the type checkers, of Python and of JavaScript")
    bench = command("bench", "measure one thing; further arguments go to that benchmark (try --help)")
    bench.add_argument("name", choices=benchmarks())
    playground = command("playground", "train or evaluate the playground's model; further arguments go to that task (try --help)")
    playground.add_argument("task", choices=("train", "evaluate"))
    composition = command("composition", "train a composition classifier; further arguments go to that task (try --help)")
    composition.add_argument("task", choices=("train",))
    host = command("host", "get ready, and print which Python and ComfyUI are used, as one JSON object")
    for uses_a_version in (run, host):
        uses_a_version.add_argument("--version", help=f"{' or '.join(hosts.RELEASES)}, or what COMFYUI_PATH holds")
    return door


def benchmarks() -> list[str]:
    return sorted(path.stem for path in (ROOT / "development" / "benchmarks").glob("[!_]*.py"))


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """The door's own arguments, and the rest for what stands behind it."""
    words = sys.argv[1:]
    words_of = {"test": 2 if words[1:2] and words[1] in LANES else 1, "playground": 2, "composition": 2, "bench": 2}
    own_words = words_of.get(words[0] if words else "")
    if own_words is not None and words[1:2] not in (["-h"], ["--help"]):
        return parser().parse_args(words[:own_words]), words[own_words:]
    options, rest = parser().parse_known_args(words)
    if rest and options.command != "run":
        parser().error(f"{options.command} takes no {' '.join(rest)}")
    return options, rest


def main() -> int | None:
    options, rest = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` stops the servers
    try:
        host = prepare(getattr(options, "version", None))
    except hosts.HostError as error:
        sys.exit(f"dev.py: {error}")
    environment.enter()
    if options.command == "host":
        sys.stdout.write(hosts.describe(host, environment.python()) + "\n")
        return 0
    if options.command == "run":
        from development.server import run_in_foreground

        return run_in_foreground(host.path, ROOT / ".host" / "run", rest)
    if options.command == "test":
        from development.checks import test

        return test(options.lane, rest)
    if options.command == "lint":
        from development.checks import lint

        return lint()
    if options.command in ("demo", "pictures"):
        from development.client import PromptFailed, PromptRejected
        from development.demo import demo
        from development.workflow_pictures import draw_pictures

        try:
            return demo(host) if options.command == "demo" else draw_pictures(host, options.names)
        except (PromptFailed, PromptRejected) as error:
            sys.exit(f"dev.py {options.command}: {error}")
    from development.pack import enter_host

    enter_host(host)
    module = {
        "bench": lambda: f"development.benchmarks.{options.name}",
        "playground": lambda: f"playground.{options.task}",
        "composition": lambda: f"playground.{options.task}_composition",
    }[options.command]()
    return importlib.import_module(f"wan_conductor.{module}").main(rest)


def prepare(version: str | None) -> hosts.Host:
    """Make the environment and get the host; quick when both are there. One environment serves both pinned versions."""
    with environment.alone():
        environment.make_interpreter()
        host = hosts.find_host(version, environment.python())
        older = host.version in hosts.RELEASES and host.version != hosts.NEWEST
        environment.install(hosts.pinned_host(hosts.NEWEST, environment.python()).path if older else host.path)
    return host


if __name__ == "__main__":
    sys.exit(main())
