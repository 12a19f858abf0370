"""Wrong and odd inputs of every script, at random: command lines and maps. See run.py.

A case is right where a wrong input ends with status 2 and one line on stderr and no file that was
there before has changed, or where an odd but right one gives a finite result without a warning.
"""

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import netCDF4
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import downscale
import evaluate
import prepare_data
import train
from icesheet import command_line

SHAPE, SPACING_M = (123, 164), 5000.0
WINDOW = ["--window", "0", "815000", "0", "610000"]
SCRIPTS = {"prepare_data": prepare_data, "train": train, "evaluate": evaluate,
           "downscale": downscale}


def sums():
    """{path: checksum} of all files below the working folder."""
    return {path: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in Path().rglob("*") if path.is_file()}


def call(script, words):
    """Run a script within this process: exit status, what it said on stderr, with warnings."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors), \
            warnings.catch_warnings():
        warnings.simplefilter("always")
        try:
            command_line.run_script(lambda: SCRIPTS[script].main([str(word) for word in words]))
        except SystemExit as stopped:
            if stopped.code == 130:  # Ctrl-C is for this program
                raise KeyboardInterrupt from None
            return stopped.code or 0, errors.getvalue()
        except BaseException as error:  # what a user would see as a traceback
            return 1, f"Traceback\n{type(error).__name__}: {error}\n"
    return 0, errors.getvalue()


def call_process(script, words):
    """The same as a process of its own, as a shell starts it."""
    done = subprocess.run([sys.executable, REPOSITORY / f"{script}.py", *map(str, words)],
                          capture_output=True, text=True, errors="replace", check=False)
    return done.returncode, done.stderr


def one_line(status, said):
    """Whether a script ended as a wrong input has to end."""
    return status == 2 and said.count("\n") == 1 and said.startswith("error: ")


def write_map(path, thk, topg, kind="f4", form="NETCDF4", dims=("y", "x"), about=None, axis=None,
              x0=0.0):
    """Write a map of cells of 5 km; about: more attributes of thk; axis: values of x."""
    with netCDF4.Dataset(path, "w", format=form) as ds:
        for name, size in zip(("y", "x"), thk.shape, strict=True):
            ds.createDimension(name, size)
            ds.createVariable(name, "f8", (name,)).units = "m"
            ds[name][...] = SPACING_M * np.arange(size) + (x0 if name == "x" else 0)
        if axis is not None:
            ds["x"][...] = axis
        ds.createVariable("thk", kind, dims)[...] = thk
        ds.createVariable("topg", "f4", ("y", "x"))[...] = topg
        for name in ("thk", "topg"):
            ds[name].units = "m"
        ds["thk"].set_auto_maskandscale(False)
        ds["thk"].setncatts(about or {})
    return path


def fields(rng):
    """Thickness and bed [m] of an ordinary map."""
    return 1500 + 100 * rng.standard_normal(SHAPE), -500 + 100 * rng.standard_normal(SHAPE)


# ---------------------------------------------------------------- command lines


def random_command_line(rng):
    """A random command line: script, words, whether it is right."""
    def pick(*choices):
        return choices[rng.integers(len(choices))]

    base = {"prepare_data": ["--scale", "4", "--input", "map.nc", *WINDOW, "--output", "new.nc"],
            "train": ["--patches", "patches.nc", "--run", "other", "--epochs", "1"],
            "evaluate": ["--run", "tiny"],
            "downscale": ["map.nc", "--run", "tiny", "--output", "fine.nc"]}
    script = pick(*base)
    option = {"prepare_data": ["--input", "--output", "--variables"],
              "train": ["--input", "--patches", "--run", "--variables"],
              "evaluate": ["--run", "--input", "--compare", "--variables"],
              "downscale": ["--run", "--output", "--bed", "--variables"]}[script]
    kind = pick("empty", "huge", "input", "utf8", "output", "unknown", "absent", "window", "right")
    words = list(base[script])
    if kind == "empty":
        words += [pick(*option), pick("", " ")]
    elif kind == "huge":
        number = pick("9" * 400, "nan", "inf", "-inf", "1e400", "9" * 5000)
        words += {"prepare_data": [pick("--seed", "--test-size", "--time"), number],
                  "train": [pick("--seed", "--epochs", "--lr", "--batch-size"), number],
                  "evaluate": ["--rows", number],
                  "downscale": [pick("--time", "--bed-time"), number]}[script]
    elif kind == "input":  # something that is no map
        path = pick("/dev/zero", "/dev/null", ".", "empty.nc", "fifo", "text.nc", "map.nc/x")
        words = {"prepare_data": ["--input", path, "--output", "new.nc"],
                 "train": ["--run", "other", pick("--patches", "--input"), path],
                 "evaluate": ["--run", "tiny", "--input", path],
                 "downscale": [path, "--run", "tiny", "--output", "fine.nc"]}[script]
    elif kind == "utf8":
        words += [pick(*option), "a\udcff.nc"]
    elif kind == "output":  # what is read, by any path, or is of a run, or is no file
        path = pick("map.nc", "./map.nc", "soft.nc", "hard.nc", Path("map.nc").resolve(),
                    "/dev/null", "/dev/full", ".", "checkpoints/tiny/settings.json", "map.nc/new",
                    "checkpoints/tiny/best/new.nc")
        script = pick("prepare_data", "downscale")
        words = [*base[script], "--output", path]
    elif kind == "unknown":
        words += pick(["--no-such"], ["--scale", "3"], ["--run"], ["--densities", "1", "2"],
                      ["--variables", "thk"], ["--xy-units", "mile"])
    elif kind == "absent":
        words = {"prepare_data": ["--input", "absent.nc"], "train": ["--patches", "absent.nc"],
                 "evaluate": ["--run", "absent"],
                 "downscale": ["map.nc", "--run", "absent", "--output", "fine.nc"]}[script]
    else:
        script = "prepare_data"
        edge = pick("nan", "inf", "-inf", "9" * 400, "-5e400", "x") if kind == "window" else (
            pick("-500000", "-5e5", "-5.0E+5", "-500000.0"))
        words = ["--scale", "4", "--input", "west.nc", "--output", "new.nc",
                 "--window", edge, "315000", "0", "610000"]
    return script, words, kind == "right"


def try_command_line(rng, number):
    """Whether a random command line is treated as it should be."""
    script, words, is_right = random_command_line(rng)
    before = sums()
    status, said = (call_process if number % 25 == 0 else call)(script, words)
    after = sums()
    if is_right:
        Path("new.nc").unlink(missing_ok=True)
        return status == 0 and not said, (script, words, status, said)
    return one_line(status, said) and after == before, (script, words, status, said)


# ---------------------------------------------------------------- maps


def make_bad_map(rng, path):
    """Write a random damaged or odd map; its kind, more words for the scripts, what it should be.

    True: it has to be taken; False: refused; None: either will do, but by the rules.
    """
    thk, topg = fields(rng)
    words, right = [], False
    kinds = ("short3", "short4", "one dimension", "text", "compound", "ragged", "complex", "scale",
             "array", "equal", "infinite", "constant", "one cell", "no ice", "half", "minus 9999",
             "huge", "bytes", "no bed", "crs")
    kind = kinds[rng.integers(len(kinds))]
    odd = {"constant": np.full(SHAPE, 1000.0), "no ice": np.zeros(SHAPE), "one cell":
           1000.0 * (np.arange(thk.size) == rng.integers(thk.size)).reshape(SHAPE),
           "half": thk * (np.arange(SHAPE[1]) < 82)}
    if kind in odd:
        write_map(path, odd[kind], np.zeros(SHAPE) if rng.integers(2) else topg)
        right = None
    elif kind == "short3":
        forms = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA")
        write_map(path, thk, topg, form=forms[rng.integers(3)])
    elif kind in ("short4", "bytes"):
        write_map(path, thk, topg)
    elif kind == "scale":
        value = ("ten", "", np.array([1.0, 2.0]), np.nan, np.inf, 0.0)[rng.integers(6)]
        write_map(path, thk, topg, about={"scale_factor": value})
    elif kind == "array":
        key = ("standard_name", "axis", "long_name", "grid_mapping")[rng.integers(4)]
        write_map(path, thk, topg, about={key: np.array([1, 2])})
        right = True
    elif kind == "equal":
        write_map(path, thk, topg, axis=np.zeros(SHAPE[1]))
    elif kind == "infinite":
        thk[5, 5] = np.inf
        write_map(path, thk, topg)
    elif kind == "minus 9999":
        write_map(path, thk, topg, x0=-9999.0)
        with netCDF4.Dataset(path, "a") as ds:
            ds["x"].missing_value = -9999.0
        words, right = ["--window", "-9999", "805001", "0", "610000"], True
    elif kind == "no bed":
        write_map(path, thk, np.full(SHAPE, np.nan))
    elif kind == "crs":
        write_map(path, thk, topg, about={"grid_mapping": "crs"})
        with netCDF4.Dataset(path, "a") as ds:
            ds.createVariable("crs", "i4").setncatts({
                "grid_mapping_name": "polar_stereographic",
                "latitude_of_projection_origin": ("south", [1.0, 2.0])[rng.integers(2)]})
        right = True
    else:
        special_map(path, kind, thk, topg)
        if kind in ("text", "compound", "ragged", "complex"):
            words = ["--variables", "thk=odd"]
    if kind in ("short3", "short4", "bytes"):
        content = bytearray(path.read_bytes())
        if kind == "bytes":  # some bytes of the first part are others: it may still be a map
            for place in rng.integers(0, 4000, 30):
                content[place] = rng.integers(256)
            right = None
        else:
            content = content[:rng.integers(0, len(content) - 8)]
        path.write_bytes(content)
    return kind, words, right


def special_map(path, kind, thk, topg):
    """Write a map whose variable `odd`, or whose axes, are of a kind that no map has."""
    if kind == "huge":  # nothing is stored: unwritten chunks
        with netCDF4.Dataset(path, "w") as ds:
            for name in "yx":
                ds.createDimension(name, 300000)
                ds.createVariable(name, "f8", (name,))[...] = SPACING_M * np.arange(300000)
                ds[name].units = "m"
            ds.createVariable("thk", "f4", ("y", "x"), zlib=True, chunksizes=(3000, 3000))
        return
    if kind == "one dimension":
        with netCDF4.Dataset(path, "w") as ds:
            ds.createDimension("n", SHAPE[0])
            for name in "yx":
                ds.createVariable(name, "f8", ("n",))[...] = SPACING_M * np.arange(SHAPE[0])
            ds.createVariable("thk", "f4", ("n", "n"))[...] = thk[:, :SHAPE[0]]
        return
    write_map(path, thk, topg)
    with netCDF4.Dataset(path, "a") as ds:
        pair = np.dtype([("re", "f8"), ("im", "f8")])
        of_type = {"text": str, "compound": pair, "complex": pair, "ragged": "f4"}[kind]
        if kind in ("compound", "complex"):
            of_type = ds.createCompoundType(of_type, "pair")
        elif kind == "ragged":
            of_type = ds.createVLType(of_type, "ragged")
        ds.createVariable("odd", of_type, ("y", "x"))


def try_map(rng, number):
    """Whether a random map is treated as it should be by prepare_data, or by downscale."""
    path = Path("bad.nc")
    kind, words, right = make_bad_map(rng, path)
    command = ("prepare", "prepare", "fine", "reconstruction")[rng.integers(4)]
    if kind == "minus 9999" or command == "prepare":
        script = "prepare_data"
        words = ["--scale", 4, "--input", path, "--output", "new.nc", *WINDOW, *words]
    else:
        script = "downscale"
        words = [path, "--run", "tiny", *words,
                 *(["--reconstruct"] if command == "reconstruction" else ["--output", "new.nc"])]
    status, said = (call_process if number % 40 == 0 else call)(script, words)
    good = one_line(status, said) if right is False or right is None and status else (
        status == 0 and not said)
    if status == 0 and Path("new.nc").exists() and script == "prepare_data":
        with netCDF4.Dataset("new.nc") as ds:
            good &= bool(np.isfinite(ds["thk"][...]).all())
    for result in Path("results").rglob("*.json"):
        good &= "NaN" not in result.read_text()
    for left in ("new.nc", "bad.nc"):
        Path(left).unlink(missing_ok=True)
    return good, (kind, script, words, status, said)


# ---------------------------------------------------------------- all of them


def prepare_folder(rng):
    """A map, its links, patches and a small trained run `tiny` in the working folder."""
    write_map(Path("map.nc"), *fields(rng))
    write_map(Path("west.nc"), *fields(rng), x0=-500000.0)
    Path("empty.nc").touch()
    Path("text.nc").write_text("no map")
    Path("soft.nc").symlink_to("map.nc")
    os.link("map.nc", "hard.nc")
    os.mkfifo("fifo")
    for script, words in (
            ("prepare_data", ["--scale", 4, "--input", "map.nc", *WINDOW, "--output",
                              "patches.nc"]),
            ("train", ["--patches", "patches.nc", "--run", "tiny", "--epochs", 1])):
        status, said = call(script, words)
        if status:
            raise RuntimeError(f"{script}: {said}")


def run_cases(rng, counts):
    """Try counts["command lines"] command lines and counts["bad maps"] maps, drawn from rng.

    Returns {kind: (tried, right)}; what is not right is printed.
    """
    counts_by_kind, here = {}, Path.cwd()
    if not (counts.get("command lines") or counts.get("bad maps")):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            prepare_folder(rng)
            for kind, attempt in (("command lines", try_command_line), ("bad maps", try_map)):
                tried = counts.get(kind, 0)
                results = [attempt(rng, number) for number in range(tried)]
                for is_right, case in results:
                    if not is_right:
                        print(f"not right, {kind}: {ascii(case)[:600]}")
                counts_by_kind[kind] = tried, sum(is_right for is_right, _ in results)
        finally:
            os.chdir(here)
    return counts_by_kind
