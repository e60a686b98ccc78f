"""The command line: `btlib doctor | models | grid | report | pretrain`; also `python -m btlib`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from btlib.errors import BtlibError, unknown
from btlib.presets import DEFAULT_PRESET, PRESETS
from btlib.support.paths import at_home
from btlib.support.text import say_anywhere


class Parser(argparse.ArgumentParser):
    """argparse that reports a wrong option as every other wrong input: in one line."""

    def error(self, message: str) -> NoReturn:
        raise BtlibError(f"{message}; `{self.prog} --help` lists what there is")


def parser() -> argparse.ArgumentParser:
    """Build the parser; importing only what is light, so that help comes at once."""
    main = Parser(prog="btlib", description="Prompt and weight optimization of LM programs, step by step.")
    main.set_defaults(run=None)
    commands = main.add_subparsers(metavar="command")
    doctor = commands.add_parser(
        "doctor", help="check this installation: versions, data, embedded LM, memory, cores, accelerator"
    )
    doctor.set_defaults(run=run_doctor)

    models = commands.add_parser("models", help="list the LMs that go by a name: size, memory, licence, chat template")
    models.set_defaults(run=run_models)

    grid = commands.add_parser("grid", help="run strategies on tasks, each as an executed notebook, then report")
    grid.add_argument(
        "--preset", default=DEFAULT_PRESET, help="smoke, laptop (default), colab or paper: sizes and settings"
    )
    grid.add_argument(
        "--tasks", nargs="+", default=[], metavar="TASK", help="of those in btlib/tasks (default: the paper's three)"
    )
    grid.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="a name that `btlib models` lists, or a Hugging Face folder (default: the preset's)",
    )
    grid.add_argument(
        "--strategies",
        nargs="+",
        default=[],
        metavar="S",
        help='such as "p -> w" or p-w; prefixes are added (default: all eight)',
    )
    grid.add_argument(
        "--seeds",
        nargs="+",
        default=[],
        metavar="N",
        help="whole numbers; a seed shuffles the training set (default: the preset's)",
    )
    grid.add_argument(
        "--runs", type=at_home, default=Path("runs"), metavar="DIR", help="where runs are kept (default: ./runs)"
    )
    grid.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings of the preset to change, such as epochs=5; such runs have a folder of their own",
    )
    grid.add_argument(
        "--data", metavar="FOLDER", help="where GSM8K's and HotPotQA's own files lie (default: the preset's)"
    )
    grid.add_argument(
        "--retriever", metavar="URL_or_FILE", help="what HotPotQA searches: a ColBERTv2 server or a file of passages"
    )
    grid.add_argument(
        "--api-base", metavar="URL", help="the OpenAI-compatible server of --models openai/<name>, with /v1 at its end"
    )
    grid.add_argument(
        "--workers", type=int, metavar="N", help="runs at a time (default: one a core, two on an accelerator)"
    )
    grid.add_argument(
        "--dry-run",
        action="store_true",
        help="list the runs with their estimated LM calls, tokens and GPU hours, and run nothing",
    )
    grid.set_defaults(run=run_grid)

    report = commands.add_parser("report", help="make the report of a runs folder again")
    report.add_argument("--preset", default=DEFAULT_PRESET, help="whose runs (default: laptop)")
    report.add_argument(
        "--runs", type=at_home, default=Path("runs"), metavar="DIR", help="the runs folder (default: ./runs)"
    )
    report.add_argument("--table", action="store_true", help="print the table only")
    report.set_defaults(run=run_report)

    pretrain = commands.add_parser("pretrain", help="pre-train the embedded LM", add_help=False)
    pretrain.set_defaults(run=run_pretrain)
    return main


def run_doctor(_: argparse.Namespace) -> int:
    """Print one line a check."""
    from btlib.doctor import doctor

    return doctor()


def run_models(_: argparse.Namespace) -> int:
    """Print the known LMs."""
    from btlib.doctor import models

    return models()


def run_grid(options: argparse.Namespace) -> int:
    """Run the grid; 0 when all runs are complete, 1 when one failed, 130 after Ctrl-C."""
    from btlib.grid.command import grid
    from btlib.grid.run import run_grid as run

    return grid(options, run)


def run_report(options: argparse.Namespace) -> int:
    """Execute the results notebook again and print the table."""
    from btlib.grid.command import report

    if options.preset.partition("+")[0] not in PRESETS:
        raise unknown("preset", options.preset, PRESETS)
    return report(options.runs, options.preset, table_only=options.table)


def run_pretrain(options: argparse.Namespace) -> int:
    """Hand the rest of the command line to the embedded LM's recipe."""
    from btlib.pocket import pretrain

    own = Parser(prog="btlib pretrain", description="Pre-train the embedded LM (data/pocket-lm).")
    pretrain.add_arguments(own)
    return pretrain.run(own.parse_args(options.rest))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 2 for an input that cannot work, with one line that says why."""
    say_anywhere()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    tree = parser()
    try:
        if arguments[:1] == ["pretrain"]:  # its options are its own, and reading them loads torch
            options = argparse.Namespace(run=run_pretrain, rest=arguments[1:])
        else:
            options = tree.parse_args(arguments)
        command: Callable[[argparse.Namespace], int] | None = options.run
        if command is None:
            tree.print_help()
            return 0
        return command(options)
    except BtlibError as error:
        print(f"btlib: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("btlib: stopped; complete runs are kept, the same command goes on from them", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
