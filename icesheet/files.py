"""Files that appear whole or not at all, folders that last, JSON, CSV and checksums."""

import contextlib
import csv
import errno
import fcntl
import hashlib
import json
import os
import platform
import secrets
import shutil
import sys
import time
from pathlib import Path

import netCDF4
import numpy as np
import scipy

from icesheet import command_line
from icesheet.command_line import InputError

# Folders of the three steps, relative to where the scripts are run.
DATA = Path("data")
CHECKPOINTS = Path("checkpoints")
RESULTS = Path("results")


def choose_checkpoints(run):
    """Read runs from the folder beside the scripts, if the working folder has no such run.

    For programs that only read runs: nothing is ever written there.
    """
    global CHECKPOINTS
    beside_scripts = Path(__file__).resolve().parents[1] / "checkpoints"
    if not (CHECKPOINTS / run).exists() and (beside_scripts / run).is_dir():
        CHECKPOINTS = beside_scripts
        print(f"run {run}: {CHECKPOINTS / run}")
# What file systems without locks, or without fsync of folders, answer (NFS, FUSE, SMB, Lustre).
UNSUPPORTED = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def history_entry():
    """Return time and command, for the `history` of a NetCDF file."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {command_line.command_text()}"


@contextlib.contextmanager
def explain_write_errors(path):
    """Name `path` in the errors of a block that writes it and does nothing else.

    Raises OSError where the disk is full or the folder cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: what netCDF4 makes of a failed write
        raise OSError(f"{path}: cannot be written; is the disk full or the folder read-only? "
                      f"({command_line.one_line(error)})") from None


def flush_to_disk(path):
    """Wait until a file, or the names in a folder, are on the disk and survive a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        command_line.print_once("note: this file system cannot say when a folder is on the disk: "
                                "a power cut may lose the last files")
    finally:
        os.close(opened)


def make_durable_folder(path):
    """Make a folder, and those above it, that a power cut keeps."""
    path = Path(path)
    if not path.is_dir():
        make_durable_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush_to_disk(path.parent)


def lock_file(opened):
    """Lock an open file until it is closed, or until the process ends, however it ends.

    Returns True; False where another process holds the lock; None where there are no locks.
    """
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        command_line.print_once("note: this file system has no locks: do not train one run in two "
                                "processes at once")
        return None
    return True


@contextlib.contextmanager
def scratch_folder(folder):
    """Make a hidden folder in `folder` for files that are not finished, and remove it at the end.

    Its name is random: neither process numbers nor names of machines tell two containers apart. A
    locked file in it says that its process runs (a file of its own, since HDF5 locks those that it
    writes). Folders whose lock is free were left by processes that were killed: they are removed.
    """
    for left in folder.glob(".unfinished-*"):
        with contextlib.suppress(OSError), open(left / "lock", "a") as lock:
            if lock_file(lock):
                delete_path(left)
    while True:
        scratch = folder / f".unfinished-{secrets.token_hex(8)}"
        scratch.mkdir()
        with contextlib.suppress(FileNotFoundError):  # another process took it for left
            lock = open(scratch / "lock", "a")  # noqa: SIM115
            if lock_file(lock) is not False and is_open_file(lock.fileno(), scratch / "lock"):
                break
            lock.close()
    try:
        yield scratch
    finally:
        delete_path(scratch)
        lock.close()


def is_open_file(opened, path):
    """Return whether the file of this descriptor still has this name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(opened), os.stat(path))
    return False


def delete_path(path):
    """Remove a file, or a folder with all that is in it, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write(path):
    """Give a temporary path that takes the place of `path` when the block ends without an error.

    A reader sees the old file or the whole new one, never a half, after a power cut too: the
    contents are on the disk before the name is switched. After an error nothing is left.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        with explain_write_errors(path):
            make_durable_folder(path.parent)
            temporary = stack.enter_context(scratch_folder(path.parent)) / path.name
        yield temporary
        with explain_write_errors(path):
            flush_to_disk(temporary)
            os.replace(temporary, path)
    with explain_write_errors(path):  # once the scratch folder is gone: no power cut brings it back
        flush_to_disk(path.parent)


def check_output_path(path, *inputs):
    """Raise InputError if `path` cannot be used for output.

    It may be no regular file, lie in a run's folder, or be one of `inputs`, also through a link.
    inputs: paths; None and "" are skipped.
    """
    path = Path(path)
    with explain_write_errors(path):  # where its folder is not one, or the name is too long
        is_other = path.is_symlink() and not path.exists() or path.exists() and not path.is_file()
    if is_other or path.name in ("", ".."):
        raise InputError(f"{path}: not a file; choose another name for the output")
    runs = {CHECKPOINTS.resolve(), Path("checkpoints").resolve()}
    if runs & set(path.resolve().parents) or path.exists() and (
            RESULTS.resolve() in path.resolve().parents and path.suffix != ".nc"):
        raise InputError(f"{path}: belongs to a run; choose another name for the output")
    for source in filter(None, inputs):
        if path.resolve() == Path(source).resolve() or (
                path.exists() and Path(source).exists() and path.samefile(source)):
            raise InputError(f"{path}: this is the input {source}; choose another name for the "
                             "output")


def write_json(path, content):
    """Write `content` to `path` as indented JSON, at once or not at all; reject NaN."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as temporary, explain_write_errors(path):
        temporary.write_text(text, encoding="utf-8")


def read_json(path, hint):
    """Return the content of a JSON file; InputError with `hint`, what to do, if it has none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {hint}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({command_line.one_line(error)}); {hint}"
                         ) from None


def write_table(path, rows):
    """Write `rows`, dicts, to `path` as CSV, at once or not at all."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path) as temporary, explain_write_errors(path), \
            open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path):
    """Return the rows of a CSV file as dicts of numbers, int where written so; None where empty."""
    def number(text):
        if not text:
            return None
        return int(text) if text.isdigit() else float(text)

    with open(path, newline="", encoding="utf-8") as file:
        return [{key: number(text) for key, text in row.items()} for row in csv.DictReader(file)]


def package_versions():
    """Return the versions of what computes the numbers, for the files that are made."""
    versions = {"python": platform.python_version(), "numpy": np.__version__,
                "scipy": scipy.__version__, "netCDF4": netCDF4.__version__}
    if "tensorflow" in sys.modules:
        versions["tensorflow"] = sys.modules["tensorflow"].__version__
    return versions


def hash_file(path):
    """Return the SHA-256 of a file; raise InputError if there is no file."""
    if not Path(path).is_file():  # /dev/zero has no end
        raise InputError(f"{path}: no such file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_code():
    """Return the SHA-256 of the scripts and the package: other code may make another map."""
    package = Path(__file__).parent
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(
        [*package.parent.glob("*.py"), *package.glob("*.py")]))).hexdigest()
