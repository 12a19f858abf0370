"""Command lines: arguments, errors for people, progress and tables on screen."""

import argparse
import contextlib
import os
import re
import shlex
import signal
import sys
from pathlib import Path

RENAMED_OPTIONS = {  # name in earlier versions: name today
    "--hindcast": "--reconstruct", "--base": "--first-guess", "--turns": "--self-ensemble",
    "--units": "--xy-units", "--names": "--variables", "--part": "--strip", "--fold": "--job",
    "--table": "--summary-only", "--patches": "--rows"}
printed_lines = set()  # of print_once


class InputError(Exception):
    """Bad usage or bad input: one line for the user, exit status 2, no traceback."""


def open_standard_streams():
    """Open /dev/null in place of standard streams that are closed, as a daemon's or after `>&-`.

    A file that is opened later would get their number, and what is printed would go into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            setattr(sys, name, open(number, mode))  # noqa: SIM115


open_standard_streams()


def drop_unprintable(stream):
    """Let a stream replace letters that it has not, and drop what nobody can read any more.

    What is printed must not end a job: neither "±" on a screen of ASCII, nor `| head -1`, nor a
    full disk below a log.
    """
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")

    def without_error(method):
        def call(*args):
            try:
                return method(*args)
            except OSError:
                with contextlib.suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
                return None
        return call

    stream.write, stream.flush = without_error(stream.write), without_error(stream.flush)


def one_line(error):
    """Return the text of an exception on one line, for a person to read."""
    return " ".join(str(error).split()) or type(error).__name__


def run_script(main):
    """Run main() as a script and exit with its status.

    Input and disk errors print one line on stderr and exit with status 2. A kill (SIGTERM) ends the
    script as Ctrl-C does, so that nothing half-written is left behind.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        drop_unprintable(stream)
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


@contextlib.contextmanager
def collect_signals():
    """Collect Ctrl-C and kills (SIGTERM) in a list, which is yielded, while the block runs."""
    received = []
    handlers = {signum: signal.signal(signum, lambda signum, frame: received.append(signum))
                for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def make_argument_parser(doc):
    """Return an argparse parser whose help is the script's docstring and whose errors are one line.

    It accepts -5e5 and -3: as values, and rejects what no option can mean (check_arguments,
    check_number_ranges).
    """
    parser = argparse.ArgumentParser(
        prog=script_name(), description=doc, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    # argparse itself takes -500000.0 for a number, but -5e5 and the range -3: for options.
    parser._negative_number_matcher = re.compile(r"-[\d.]+([eE][-+]?\d+|:-?\d*)?$")

    def error(message):
        raise InputError(f"{message} (see python {parser.prog} --help)")

    def parse_args(argv=None):
        words = list(sys.argv[1:] if argv is None else argv)
        check_arguments(words)
        check_renamed_options(words, parser._option_string_actions)
        args = argparse.ArgumentParser.parse_args(parser, words)
        check_number_ranges(vars(args))
        return args

    parser.error, parser.parse_args = error, parse_args
    return parser


def check_arguments(words):
    """Raise InputError for a word of a command line that is empty or not UTF-8."""
    for before, word in zip(["", *words], words, strict=False):
        if not word.strip() or word.startswith("--") and word.endswith("="):
            option = word.removesuffix("=").strip() or before or "command line"
            raise InputError(f"{option}: empty value; is a variable of the shell not set?")
        try:
            word.encode()
        except UnicodeEncodeError:  # no such name can be written into a NetCDF or JSON file
            raise InputError(f"{ascii(word)}: not UTF-8; rename the file, or make a link to it "
                             "with a plain name") from None


def check_renamed_options(words, options):
    """Raise InputError for an option of earlier versions, with its name today.

    options: the options of the script, which may have one of these names for another thing.
    """
    for word in words:
        old = word.split("=")[0]
        if old not in options and RENAMED_OPTIONS.get(old) in options:
            raise InputError(f"{old} is now {RENAMED_OPTIONS[old]}")


def check_number_ranges(values):
    """Raise InputError for a number of a command line that is infinite, NaN or beyond 32 bits.

    values: {name of the option: value or values}.
    """
    for name, value in values.items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, (int, float)) and not (
                    abs(number) < 2**32 if isinstance(number, int) else abs(number) < 1e30):
                raise InputError(f"--{name.replace('_', '-')} {str(number)[:20]}: out of range; "
                                 "expected a finite number, integers below 2^32")


def parse_time_option(text, n_times, path):
    """Return the time indices that --time asks for: N (an int), "N:M" without M, or "all".

    n_times: how many times there are in the file `path`.
    """
    if isinstance(text, int):
        return [text]
    ends = [int(end) if end else None for end in text.replace("all", ":").split(":")]
    indices = list(range(n_times)[slice(*ends)])
    if not indices:
        raise InputError(f"--time {text}: selects no time; {path} has indices 0 to {n_times - 1}")
    return indices


def script_name():
    """Return what follows `python` in the running command, without arguments."""
    path = Path(sys.argv[0])
    is_module = path.resolve().parent == Path(__file__).resolve().parent
    return f"-m icesheet.{path.stem}" if is_module else path.name


def command_text():
    """Return the running command as typed in a shell, for the files that it makes."""
    return f"python {script_name()} {shlex.join(sys.argv[1:])}".strip()


def show_progress(label, done, total, seconds_each, text=""):
    """Print how far a long job is: one line that a terminal overwrites, or 20 lines in a log.

    label: name of a step, of which `done` are done; seconds_each: time a step takes; text: more to
    print.
    """
    left_s = int(seconds_each * (total - done))
    line = f"{label} {done:5d}/{total}   {text}{left_s // 60:3d}:{left_s % 60:02d} left"
    if sys.stdout.isatty():
        print(f"\r{line}", end="" if done < total else "\n", flush=True)
    elif done in (1, total) or done % max(total // 20, 1) == 0:
        print(line, flush=True)


def print_once(text):
    """Print a line, unless this process has printed it before."""
    if text not in printed_lines:
        printed_lines.add(text)
        print(text)


def print_table(rows):
    """Print rows of texts as columns: the first aligned left, the others right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        print("  ".join([first.ljust(widths[0]), *(
            cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]).rstrip())


def check_run_name(run):
    """Return the name of a run; raise InputError unless it can be the name of a folder."""
    if not run.replace("_", "").replace("-", "").replace(".", "").isalnum() or run.startswith("."):
        raise InputError(f"--run {run}: expected letters, digits, _ - and . only")
    return run
