"""Arguments, errors, progress and tables on screen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_main

import downscale
import evaluate
import prepare_data
import train
from icesheet import command_line


@pytest.mark.parametrize("argv, said", [
    (["--input", ""], "--input: empty value"), (["--output="], "--output: empty value"),
    (["--input", "a\udcff.nc"], "not UTF-8"), (["--seed", "9" * 400], "out of range"),
    (["--window", "nan", "1", "2", "3"], "--window nan"),
    (["--window", "0", "1e400", "2", "3"], "--window inf"),
    (["--window", "0", "-inf", "2", "3"], "--window"), (["--input", "/dev/zero"], "no such file"),
])
def test_malformed_arguments_give_one_line_errors(folder, capsys, argv, said):
    status, error = run_main(prepare_data.main, argv, capsys)
    assert (status, error.count("\n")) == (2, 1)
    assert said in error
    assert not list(folder.iterdir())


@pytest.mark.parametrize("number", ["-500000", "-5e5", "-5.0E+5"])
def test_negative_numbers_and_ranges_are_values(number):
    parser = command_line.make_argument_parser("")
    parser.add_argument("--window", type=float, nargs=2)
    parser.add_argument("--time")
    assert parser.parse_args(["--window", number, "1"]).window == [-500000, 1]
    for time in ("-3", "-3:", "-3:-1"):
        assert parser.parse_args(["--time", time]).time == time


@pytest.mark.parametrize("main, argv, said", [
    (downscale.main, ["--hindcast"], "--hindcast is now --reconstruct"),
    (downscale.main, ["map.nc", "--turns=2"], "--turns is now --self-ensemble"),
    (downscale.main, ["--part", "1/2"], "--part is now --strip"),
    (downscale.main, ["--names", "thk=H"], "--names is now --variables"),
    (prepare_data.main, ["--units", "km"], "--units is now --xy-units"),
    (train.main, ["--base", "none"], "--base is now --first-guess"),
    (train.main, ["--fold", "1"], "--fold is now --job"),
    (train.main, ["--table"], "--table is now --summary-only"),
    (evaluate.main, ["--patches", "3"], "--patches is now --rows"),
    (train.main, ["--patches", "absent.nc"], "absent.nc: no such file"),
    (train.main, ["--hindcast"], "unrecognized arguments: --hindcast")])
def test_options_of_earlier_versions_name_those_of_today(folder, capsys, main, argv, said):
    status, error = run_main(main, argv, capsys)
    assert (status, error.count("\n")) == (2, 1) and error.startswith(f"error: {said}")


def test_tables_on_screen_are_aligned(capsys):
    command_line.print_table([("", "RMSE m", ""), ("bicubic", "1.5", "x"), ("model", "100.25", "")])
    assert capsys.readouterr().out == ("         RMSE m\n"
                                       "bicubic     1.5  x\n"
                                       "model    100.25\n")


def test_progress_says_how_long_it_will_take(capsys):
    for done in range(1, 101):
        command_line.show_progress("tile", done, 100, 2.5, "here   ")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21  # in a log, the first and every twentieth
    assert lines[0] == "tile     1/100   here     4:07 left"
    assert lines[-1] == "tile   100/100   here     0:00 left"


@pytest.mark.parametrize("redirection, said", [
    ("", "? 0\n"), ("| head -1", "? 0\n"), (">&-", ""), ("2>&-", "? 0\n"),
    ("<&- >&- 2>&-", ""), ("> /dev/full", "")])
def test_what_cannot_be_printed_ends_no_job(folder, redirection, said):
    """Closed streams, a reader that has gone, a full disk, a screen without the letter: a job ends
    well, and nothing printed gets into its files.
    """
    program = ("import sys; sys.path.insert(0, sys.argv[1])\n"
               "from icesheet.command_line import run_script\n"
               "def main():\n"
               "    with open('result', 'w') as file:\n"
               "        for number in range(9000):\n"
               "            print('\u00b1', number, flush=number % 100 == 0)\n"
               "        print('\u00b1', file=sys.stderr)\n"
               "        file.write('whole')\n"
               "run_script(main)\n")
    Path("job.py").write_text(program, encoding="utf-8")
    done = subprocess.run(
        ["bash", "-c",
         f"{sys.executable} job.py {REPOSITORY} {redirection}; exit ${{PIPESTATUS[0]}}"],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(said) and bool(done.stdout) == bool(said)
    assert done.stderr in ("", "?\n") and Path("result").read_text() == "whole"
