"""Files that appear whole or not at all; what must not be written; JSON, CSV."""

import errno
import os
import platform
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from icesheet import checkpoints, command_line, files
from icesheet.command_line import InputError


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with files.atomic_write(path) as temporary:
        temporary.write_text("old")
    # What a computation raises while a file is open is its own, not a full disk.
    with pytest.raises(RuntimeError, match="^the sum went wrong$"), \
            files.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("the sum went wrong")
    for error in (RuntimeError("NetCDF: HDF error"), OSError(28, "No space left on device")):
        with pytest.raises(OSError, match="file.txt: cannot be written; is the disk full"), \
                files.atomic_write(path) as temporary, files.explain_write_errors(path):
            temporary.write_text("half")
            raise error
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(OSError, match="cannot be written"), files.atomic_write(path / "below"):
        pass  # a file is in the way of its folder


def test_interrupted_write_leaves_no_file(folder, capsys):
    def main():
        with files.atomic_write("fine.nc") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)  # the signal comes first

    with pytest.raises(SystemExit) as stopped:
        command_line.run_script(main)
    assert stopped.value.code == 130
    assert "stopped" in capsys.readouterr().err
    assert not list(folder.iterdir())


def write_in_a_fork(path, then):
    """Write half of a file in another process, call then(scratch folder) here, and let it go on."""
    (read_half, half), (go_on, let_go_on) = os.pipe(), os.pipe()
    process = os.fork()
    if not process:
        with files.atomic_write(path) as temporary, open(temporary, "w") as file:
            file.write("half")
            file.flush()
            os.write(half, str(temporary).encode())
            os.read(go_on, 1)
            file.write(" and half")
        os._exit(0)
    then(process, Path(os.read(read_half, 4096).decode()).parent)
    os.write(let_go_on, b"x")
    for pipe in (read_half, half, go_on, let_go_on):
        os.close(pipe)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_two_containers_of_one_name_do_not_hurt_each_other(folder, monkeypatch):
    """Both have the same node name and, as numbers begin at 1 in each, the same process number."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(platform, "node", lambda: "box")

    def write_here(process, scratch):
        files.write_json("fine.nc", "of this one")
        assert scratch.exists() and files.read_json("fine.nc", "") == "of this one"

    assert write_in_a_fork("fine.nc", write_here) == 0
    assert Path("fine.nc").read_text() == "half and half"
    assert [path.name for path in folder.iterdir()] == ["fine.nc"]


def test_what_a_killed_process_left_is_removed(folder):
    Path("mine.txt").write_text("a user's")

    def kill(process, scratch):
        os.kill(process, signal.SIGKILL)

    assert write_in_a_fork("fine.nc", kill) == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 2
    files.write_json("other.json", 1)
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", "other.json"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_systems_without_locks_and_fsync_are_noted_once(folder, monkeypatch, capsys, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(command_line, "printed_lines", set())
    monkeypatch.setattr(files.fcntl, "flock", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    (folder / ".unfinished-0").mkdir()
    for content in (1, 2):
        files.write_json("a.json", content)
    assert files.read_json("a.json", "") == 2
    with checkpoints.lock_run("tiny"):
        pass
    said = capsys.readouterr().out
    assert said.count("no locks") == said.count("on the disk") == 1 and said.count("\n") == 2
    assert (folder / ".unfinished-0").exists()  # nobody knows whose it is


def test_a_disk_that_fails_is_an_error(folder, monkeypatch):
    def fail(opened):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="a.json: cannot be written.*Input/output error"):
        files.write_json("a.json", 1)


@pytest.mark.parametrize("output", ["map.nc", "./sub/../map.nc", "symbolic.nc", "hard.nc",
                                    "sub/map.nc"])
def test_output_path_is_rejected_if_it_is_an_input(output, folder):
    (folder / "sub").mkdir()
    (folder / "map.nc").write_text("the user's map")
    Path("symbolic.nc").symlink_to(folder / "map.nc")
    Path("hard.nc").hardlink_to("map.nc")
    Path("sub/map.nc").symlink_to("../symbolic.nc")
    message = "this is the input .*map.nc; choose another name"
    with pytest.raises(InputError, match=message):
        files.check_output_path(output, None, "absent.nc", folder / "map.nc")
    with pytest.raises(InputError, match=message):
        files.check_output_path(folder / output, "", "map.nc")
    with pytest.raises(InputError, match="input later.nc"):  # where there is no file yet, too
        files.check_output_path("sub/../later.nc", "later.nc")


def test_output_path_is_rejected_if_it_is_no_file_or_of_a_run(folder):
    for name in ("map.nc", "old.nc"):
        (folder / name).write_text("the same text")
    Path("lost.nc").symlink_to("absent.nc")
    for output in ("lost.nc", "/dev/null", ".", "checkpoints/x8/settings.json"):
        with pytest.raises(InputError, match="choose another name"):
            files.check_output_path(output, "map.nc")
    files.check_output_path("new.nc", "map.nc", None)
    files.check_output_path("old.nc", "map.nc")  # made again
    files.check_output_path("map.nc")


def test_tables_keep_numbers_and_gaps(tmp_path):
    rows = [{"epoch": 1, "rmse_m": 0.1}, {"epoch": 2, "rmse_m": None}]
    for _ in range(2):  # written again as read, not a letter changes
        files.write_table(tmp_path / "t.csv", rows)
        assert (tmp_path / "t.csv").read_text() == "epoch,rmse_m\n1,0.1\n2,\n"
        rows = files.read_table(tmp_path / "t.csv")


def test_json_has_no_nan_in_it(tmp_path):
    path = tmp_path / "scores.json"
    files.write_json(path, {"rmse_m": 1.5})
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            files.write_json(path, {"rmse_m": bad})
    assert files.read_json(path, "") == {"rmse_m": 1.5}
    path.write_text("{")
    with pytest.raises(InputError, match="scores.json: not valid JSON .*; make it again"):
        files.read_json(path, "make it again")
