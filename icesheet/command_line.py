"""icesheet.command_line."""

import argparse
import re
import shlex
import signal
import sys
from pathlib import Path


class InputError(Exception):
    """Bad usage or bad input: one line for the user, exit status 2, no traceback."""


def one_line(error):
    """The text of an exception on one line, for a person to read."""
    return " ".join(str(error).split()) or type(error).__name__


def run_script(main):
    """Run `main()` as a script: a user's or the disk's errors end in one line and status 2.

    A kill (SIGTERM) ends it as Ctrl-C does, so that nothing half-written is left behind.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except (InputError, OSError) as error:  # OSError: unwritable folder, full disk
        print(f"error: {one_line(error)}", file=sys.stderr)
    except MemoryError as error:
        print(f"error: not enough memory ({one_line(error)}); use a part of the map, or a machine "
              "with more", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(2)


def make_argument_parser(doc):
    """An argparse parser with the script's docstring as help, whose errors are one line.

    It takes -5e5 as a number, and refuses what no option can mean: see check_arguments, check_number_ranges.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(message):
        raise InputError(f"{message} (see python {parser.prog} --help)")

    def parse_args(argv=None):
        words = list(sys.argv[1:] if argv is None else argv)
        check_arguments(words)
        args = argparse.ArgumentParser.parse_args(parser, [
            # argparse itself takes -500000.0 for a number, -5e5 for an option
            f"{float(word):f}" if re.fullmatch(r"-[\d.]+[eE][-+]?\d{1,2}", word) else word
            for word in words])
        check_number_ranges(vars(args))
        return args

    parser.error, parser.parse_args = error, parse_args
    return parser


def check_arguments(words):
    """Raise InputError for a word of a command line that is empty or not UTF-8."""
    for before, word in zip(["", *words], words, strict=False):
        if not word.strip() or word.startswith("--") and word.endswith("="):
            raise InputError(f'{before or "command line"}: "{word}" is empty; is a variable of the '
                             "shell not set?")
        try:
            word.encode()
        except UnicodeEncodeError:  # no such name can be written into a NetCDF or JSON file
            raise InputError(f"{ascii(word)}: not UTF-8; rename the file, or make a link to it "
                             "with a plain name") from None


def check_number_ranges(values):
    """Raise InputError for a number of a command line that is infinite, NaN or beyond 32 bits.

    values: {name of the option: value or values}.
    """
    for name, value in values.items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, (int, float)) and not (
                    abs(number) < 2**32 if isinstance(number, int) else abs(number) < 1e30):
                raise InputError(f"--{name.replace('_', '-')} {str(number)[:20]}: expected a "
                                 "number, not so large")


def parse_time_option(text, records, path):
    """The numbers of the records that --time asks for, N (int), "N:M" (without M) or "all"; a list.

    records: how many there are in the file `path`.
    """
    if isinstance(text, int):
        return [text]
    ends = [int(end) if end else None for end in text.replace("all", ":").split(":")]
    numbers = list(range(records)[slice(*ends)])
    if not numbers:
        raise InputError(f"{path}: --time {text}: none of its records, 0 to {records - 1}")
    return numbers


def command_text():
    """The command that runs, as typed in a shell: every file made says it."""
    return f"python {Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".strip()


def show_progress(what, done, total, seconds_each, text=""):
    """Print how far a long job is: a line that a terminal overwrites, or 20 lines in a log.

    what: name of a step, of which `done` are done; seconds_each: what one takes; text: more to say.
    """
    left_s = int(seconds_each * (total - done))
    line = f"{what} {done:5d}/{total}   {text}{left_s // 60:3d}:{left_s % 60:02d} left"
    if sys.stdout.isatty():
        print(f"\r{line}", end="" if done < total else "\n", flush=True)
    elif done in (1, total) or done % max(total // 20, 1) == 0:
        print(line, flush=True)


def print_table(rows):
    """Print rows of texts as columns: the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        print("  ".join([first.ljust(widths[0]), *(
            cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]).rstrip())


def check_run_name(run):
    """Return the name of a run; InputError unless it will do for a folder."""
    if not run.replace("_", "").replace("-", "").replace(".", "").isalnum() or run.startswith("."):
        raise InputError(f"--run {run}: expected letters, digits, _ - and . only")
    return run
