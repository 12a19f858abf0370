"""icesheet.files."""

import contextlib
import csv
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path

import netCDF4
import numpy as np
import scipy
import scipy.interpolate
import scipy.ndimage
import scipy.sparse

from icesheet import command_line
from icesheet.command_line import InputError

# Folders of the three steps, relative to where the scripts are run.
DATA = Path("data")
CHECKPOINTS = Path("checkpoints")
RESULTS = Path("results")


def history_entry():
    """Time and command, for the `history` of a NetCDF file."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {command_line.command_text()}"


@contextlib.contextmanager
def explain_write_errors(path):
    """Name `path` in the errors of a block that writes it, and does nothing else.

    Raises OSError where the disk is full or the folder cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: what netCDF4 makes of a failed write
        raise OSError(f"{path}: cannot be written; is the disk full or the folder read-only? "
                      f"({command_line.one_line(error)})") from None


def flush_to_disk(path):
    """Wait until a file or folder is on the disk: what follows may count on it after a power cut.

    Of a file that is its contents, of a folder the names in it.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def make_durable_folder(path):
    """Make a folder and those above it, where they are not there, for good (see sync)."""
    path = Path(path)
    if not path.is_dir():
        make_durable_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush_to_disk(path.parent)


def temporary_path(path):
    """The hidden name beside `path` that this process writes it under: names machine and process.

    What earlier processes of this machine left in that folder when they were killed is removed.
    """
    path, mark = Path(path), f".{platform.node()}-"
    for each in path.parent.glob(f"{mark}*"):
        number = each.name.removeprefix(mark).split(".")[0]
        if number.isdigit() and not is_running(int(number)):
            delete_path(each)
    temporary = path.with_name(f"{mark}{os.getpid()}.{path.name}")
    delete_path(temporary)  # of a process that had the same number
    return temporary


def delete_path(path):
    """Remove a file, or a folder with all that is in it, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_running(number):
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(number, 0)
    except PermissionError:  # another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


@contextlib.contextmanager
def atomic_write(path):
    """A temporary path beside `path` that takes its place when the block ends without an error.

    A reader sees the old file or the whole new one, never a half, after a power cut too: the
    contents are on the disk before the name is switched. After an error nothing is left.
    """
    path = Path(path)
    with explain_write_errors(path):
        make_durable_folder(path.parent)
        temporary = temporary_path(path)
    try:
        yield temporary
        with explain_write_errors(path):
            flush_to_disk(temporary)
            os.replace(temporary, path)
            flush_to_disk(path.parent)
    finally:
        with contextlib.suppress(OSError):  # where even the folder is not one
            temporary.unlink()


def check_output_path(path, *inputs):
    """Raise InputError where writing `path` would destroy one of the files `inputs`, or no file.

    The same file by any path, link or relative name counts. inputs: paths; None and "" are skipped.
    What lies in the folder of a run is one too: its weights, settings and results.
    """
    path = Path(path)
    with explain_write_errors(path):  # where its folder is not one, or the name is too long
        is_other = path.is_symlink() and not path.exists() or path.exists() and not path.is_file()
    if is_other or path.name in ("", ".."):
        raise InputError(f"{path}: not a file; choose another name for the output")
    if CHECKPOINTS.resolve() in path.resolve().parents or path.exists() and (
            RESULTS.resolve() in path.resolve().parents and path.suffix != ".nc"):
        raise InputError(f"{path}: belongs to a run; choose another name for the output")
    for each in filter(None, inputs):
        if path.resolve() == Path(each).resolve() or (
                path.exists() and Path(each).exists() and path.samefile(each)):
            raise InputError(f"{path}: this is {each}, which is read; choose another name for the "
                             "output")


def write_json(path, content):
    """Write `content` to `path` as indented JSON, at once or not at all; NaN is refused."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as temporary, explain_write_errors(path):
        temporary.write_text(text, encoding="utf-8")


def read_json(path, hint):
    """The content of a JSON file; InputError with `hint`, what to do, where it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {hint}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({command_line.one_line(error)}); {hint}") from None


def write_table(path, rows):
    """Write `rows`, dicts, to `path` as CSV, at once or not at all."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path) as temporary, explain_write_errors(path), \
            open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path):
    """The rows of a CSV file as dicts of numbers, int where written so; None where empty."""
    def number(text):
        if not text:
            return None
        return int(text) if text.isdigit() else float(text)

    with open(path, newline="", encoding="utf-8") as file:
        return [{key: number(text) for key, text in row.items()} for row in csv.DictReader(file)]


def library_versions():
    """Versions of what computes the numbers, for the result files."""
    numbers = {"python": platform.python_version(), "numpy": np.__version__,
               "scipy": scipy.__version__, "netCDF4": netCDF4.__version__}
    if "tensorflow" in sys.modules:
        numbers["tensorflow"] = sys.modules["tensorflow"].__version__
    return numbers


def hash_file(path):
    """SHA-256 of a file, by which a run knows its map again; InputError if there is no file."""
    if not Path(path).is_file():  # /dev/zero has no end
        raise InputError(f"{path}: no such file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_code():
    """SHA-256 of the scripts: with others a map may come out otherwise."""
    package = Path(__file__).parent
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(
        [*package.parent.glob("*.py"), *package.glob("*.py")]))).hexdigest()
