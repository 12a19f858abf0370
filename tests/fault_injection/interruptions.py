"""Faults of runs and files: kills, power cuts, pairs of processes, readers, damaged files.

A training is 12 epochs of a narrow 2x network on 12 patches, saved after each. It runs in a fork of
this process, which has imported TensorFlow and never used it, so a case takes seconds. Right is a
training that ends with the very weights of one that nothing happened to, or, where a file is
damaged, one line that names it and exit status 2.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path

import netCDF4
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import downscale
import evaluate
import prepare_data
import train
from icesheet import checkpoints, command_line, files, map_files
from icesheet.device import tf

train.RECIPES["narrow"] = train.RECIPES["default"] | {
    "filters": [4], "kernels": [3, 3], "epochs": 12, "self_ensemble": False}
train.SAVE_EVERY_S = 0
TRAIN = ["--patches", "data/patches.nc", "--recipe", "narrow", "--run", "r", "--seeds", "1"]
WINDOW = (-1741591, -1741591 + 163 * 5000, -915923, -915923 + 122 * 5000)
CORES = 2  # cases at a time


# ---------------------------------------------------------------- one training in a fork


def start(folder, script, argv, shim=None):
    """Start script.main(argv) in a fork that stands in `folder`; returns its process id.

    What it says goes to the files out and err there, a checksum of its weights to `weights`.
    shim: called first.
    """
    number = os.fork()
    if number:
        return number
    status = 70
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for name, stream in (("out", 1), ("err", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        sys.argv = [f"{script.__name__}.py", *argv]
        if shim:
            shim()
        try:
            command_line.run_script(lambda: script.main(argv))
        except SystemExit as stopped:
            status = stopped.code or 0
        if status == 0 and script is train:
            Path("weights").write_text(checksum("r"))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(number):
    """Exit status of a process; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def run(folder, script=train, argv=TRAIN):
    """Run to the end: exit status, what it said on stdout and on stderr."""
    status = wait(start(folder, script, argv))
    return status, (folder / "out").read_text(), (folder / "err").read_text()


def checksum(name):
    """Checksum of all numbers in the last checkpoint of a run."""
    path = checkpoints.list_checkpoints(checkpoints.run_folder(name) / "latest")[0]
    reader, total = tf.train.load_checkpoint(str(path)), hashlib.sha256(path.name.encode())
    for key in sorted(reader.get_variable_to_shape_map()):
        if "OBJECT_GRAPH" not in key:
            total.update(key.encode() + np.asarray(reader.get_tensor(key)).tobytes())
    return total.hexdigest()


def wrong_end(folder, status, weights):
    """What is wrong with a training that should have ended well, or ""."""
    if status:
        return f"status {status}: {(folder / 'err').read_text()[-300:]}"
    if (folder / "weights").read_text() != weights:
        return "other weights"
    epochs = [row["epoch"] for row in files.read_table(folder / "checkpoints/r/history.csv")]
    left = [str(path) for path in folder.rglob(".*")]
    return f"history {epochs}" if epochs != list(range(1, 13)) else f"left {left}" if left else ""


# ---------------------------------------------------------------- kills and power cuts


def killed(case, rng, reference):
    """Killed up to three times at random moments, then left alone."""
    for _ in range(rng.integers(1, 4)):
        process = start(case, train, TRAIN)
        time.sleep(rng.uniform(0, reference["seconds"]))
        os.kill(process, signal.SIGKILL)
        wait(process)
    return wrong_end(case, run(case)[0], reference["weights"])


class Disk:
    """What a disk holds: the contents of a file at its last fsync, names at their folder's."""

    def __init__(self, cut_at, target, early):
        """Cut the power at event `cut_at`: the disk is then written to `target`.

        early: names that were not synced are there all the same, the files perhaps empty.
        """
        self.cut_at, self.target, self.early, self.events = cut_at, target, early, 0
        self.contents, self.names, self.opened = {}, {}, []
        for root, folders, filenames in os.walk("."):
            self.names[root] = {name: os.stat(f"{root}/{name}").st_ino
                                for name in folders + filenames}
            for name in filenames:
                self.keep(os.open(f"{root}/{name}", os.O_RDONLY))
        self.calls = {name: getattr(os, name) for name in ("fsync", "replace", "unlink", "rmdir")}
        for name in self.calls:
            setattr(os, name, lambda *args, name=name, **more: self.event(name, *args, **more))

    def keep(self, opened):
        """Keep the contents of a file, which stays open: its inode is then used by no other."""
        self.opened.append(opened)
        self.contents[os.fstat(opened).st_ino] = Path(f"/proc/self/fd/{opened}").read_bytes()

    def event(self, name, *args, **more):
        self.events += 1
        if self.events == self.cut_at:
            self.write()
            os.kill(os.getpid(), signal.SIGKILL)
        result = self.calls[name](*args, **more)
        if name == "fsync":
            path = os.readlink(f"/proc/self/fd/{args[0]}")
            if os.path.isdir(path):
                self.names[os.path.relpath(path, ".") if path != os.getcwd() else "."] = {
                    name: os.stat(f"{path}/{name}").st_ino for name in os.listdir(path)}
            else:
                self.keep(os.dup(args[0]))
        return result

    def write(self):
        names = {}
        for root, folders, filenames in os.walk("."):
            names[os.path.normpath(root)] = {name: os.stat(f"{root}/{name}").st_ino
                                             for name in folders + filenames}
        if not self.early:
            names = {os.path.normpath(root): inodes for root, inodes in self.names.items()}
        self.copy(".", names)

    def copy(self, root, names):
        target = Path(self.target, root)
        target.mkdir(parents=True, exist_ok=True)
        for name, inode in names.get(root, {}).items():
            path = os.path.normpath(f"{root}/{name}")
            if path in names or os.path.isdir(path):
                self.copy(path, names)
            else:
                (target / name).write_bytes(self.contents.get(inode, b""))


def cut(case, rng, reference):
    """The power fails at a random sync or rename; what the disk holds goes on."""
    after = case.with_name(case.name + "_after")
    at, early = int(rng.integers(1, reference["events"] + 1)), bool(rng.integers(2))
    process = start(case, train, TRAIN, lambda: count_saved(case, Disk(at, after, early)))
    if wait(process) != -signal.SIGKILL:
        return f"no event {at}"
    saved = int((case / "saved").read_text()) if (case / "saved").exists() else 0
    status, said, _ = run(after)
    wrong = wrong_end(after, status, reference["weights"])
    said = said.replace("finished already", "resuming after epoch 12 ")
    resumed = int(said.split("resuming after epoch ")[1].split()[0]) if "resuming" in said else 0
    shutil.rmtree(after, ignore_errors=True)
    return wrong or (f"epoch {saved} was saved, resumed after {resumed}" if resumed < saved else "")


def count_saved(case, disk):
    """Write down each epoch once it is saved."""
    save = checkpoints.save_training_state

    def save_and_say(objects, history, settings):
        save(objects, history, settings)
        (case / "saved").write_text(str(int(objects["epoch"])))

    checkpoints.save_training_state = save_and_say
    return disk


# ---------------------------------------------------------------- two at once


def pair(case, rng, reference):
    """Two trainings of one run, new or stopped before, either of them perhaps with --restart."""
    if rng.integers(2):
        shutil.copytree(reference["stopped"], case, dirs_exist_ok=True)
    others = case.with_name(case.name + "_other")  # where the second one's words go
    others.mkdir()
    for name in ("data", "checkpoints", "results"):
        (case / name).mkdir(exist_ok=True)
        (others / name).symlink_to(case / name)
    commands = [TRAIN + ["--restart"] * int(rng.integers(2)) for _ in range(2)]
    processes = []
    for folder, command in zip((case, others), commands, strict=True):
        processes.append(start(folder, train, command))
        time.sleep(rng.uniform(0, 0.7 * reference["seconds"]) * rng.integers(2))
    ends = [wait(process) for process in processes]
    said = [(folder / "err").read_text() for folder in (case, others)]
    shutil.rmtree(others)
    for status, words in zip(ends, said, strict=True):
        busy = words.startswith("error: run r is being trained") and words.count("\n") == 1
        if status and not (status == 2 and busy):
            return f"status {status}: {words[-300:]}"
    if min(ends):
        return f"neither was trained: {said}"
    return wrong_end(case, run(case)[0], reference["weights"])


def two_of_one_name(case, rng, reference):
    """Two containers with one node name and one process number write one file; one may be killed.

    What is read is always the whole file of one of them.
    """
    def write_often(argv):
        os.getpid, platform.node = (lambda: 1), (lambda: "box")
        own = np.random.default_rng(time.time_ns())
        for number in range(150):
            with files.atomic_write("shared.json") as temporary, open(temporary, "w") as file:
                text = f"{number} " * int(own.integers(1, 3000))
                file.write(hashlib.sha256(text.encode()).hexdigest())
                file.flush()
                time.sleep(own.uniform(0, 0.003))
                file.write(text)

    writer = types.SimpleNamespace(main=write_often, __name__="writer")
    processes = [start(case, writer, []) for _ in range(2)]
    killed_after, started = rng.uniform(0.1, 2) if rng.integers(2) else np.inf, time.monotonic()
    running, is_killed = list(processes), False
    while running:
        if time.monotonic() - started > killed_after and not is_killed:
            os.kill(processes[0], signal.SIGKILL)
            is_killed = True
        with contextlib.suppress(FileNotFoundError):  # not written yet
            content = (case / "shared.json").read_text()
            if hashlib.sha256(content[64:].encode()).hexdigest() != content[:64]:
                return f"half a file: {content[:100]}"
        for process in list(running):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                running.remove(process)
                if status and not (is_killed and process == processes[0]):
                    return (case / "err").read_text()[-300:]
    if wait(start(case, writer, [])):
        return (case / "err").read_text()[-300:]
    left = [path.name for path in case.glob(".*")]
    return f"left {left}" if left else ""


def read_in_training(case, rng, reference):
    """A run is evaluated again and again while it trains, and saves after every epoch."""
    saved = case / "checksums"

    def note_checksums():
        save = checkpoints.save_training_state

        def save_and_note(*args):
            save(*args)
            weights = next(Path("checkpoints/r/best").glob("*.data*"))
            with open(saved, "a") as file:
                file.write(files.hash_file(weights) + "\n")
            time.sleep(rng.uniform(0, 0.3))

        checkpoints.save_training_state = save_and_note

    reader = case.with_name(case.name + "_reader")
    reader.mkdir()
    for name in ("data", "checkpoints"):
        (case / name).mkdir(exist_ok=True)
        (reader / name).symlink_to(case / name)
    training, n_read, wrong = start(case, train, TRAIN, note_checksums), 0, ""
    while not wrong and not os.waitpid(training, os.WNOHANG)[0]:
        if not saved.exists():
            time.sleep(0.01)
            continue
        status, _, said = run(reader, evaluate, ["--run", "r"])
        n_read += 1
        if status or said:
            wrong = f"read {n_read}, status {status}: {said[-300:]}"
        elif (sha256 := files.read_json(reader / "results/r/metrics.json", "")["weights_sha256"]
              ) not in saved.read_text() and sha256 != files.hash_file(
                  next((case / "checkpoints/r/best").glob("*.data*"))):
            wrong = f"read {n_read}: other weights than were saved"
    shutil.rmtree(reader)
    return wrong or ("" if n_read else "nothing was read")


def write_series(path, thk_m):
    """Write a map of three times, whose ice is everywhere thk_m, 2 thk_m and 3 thk_m thick."""
    with netCDF4.Dataset(path, "w") as ds:
        for name, size in (("time", 3), ("y", 60), ("x", 60)):
            ds.createDimension(name, size)
            ds.createVariable(name, "f8", (name,))[...] = 5000.0 * np.arange(size)
        ds["x"].units = ds["y"].units = "m"
        ds.createVariable("thk", "f4", ("time", "y", "x"))[...] = (
            thk_m * np.arange(1, 4)[:, None, None] * np.ones((60, 60)))
        ds.createVariable("topg", "f4", ("y", "x"))[...] = 100.0
        ds["thk"].units = ds["topg"].units = "m"
    return path


def map_replaced(case, rng, reference):
    """Another map takes the place of one that is downscaled: an error, or all times of one file."""
    shutil.copytree(reference["finished"], case, dirs_exist_ok=True)
    sha256 = files.hash_file(write_series(case / "series.nc", 100.0))
    others = {sha256: 100.0, files.hash_file(write_series(case / "other.nc", 150.0)): 150.0}
    process = start(case, downscale, ["series.nc", "--run", "r", "--time", "all",
                                      "--output", "fine.nc"])
    time.sleep(rng.uniform(0, 4))
    os.replace(case / "other.nc", case / "series.nc")
    status, said = wait(process), (case / "err").read_text()
    if status:
        is_right = status == 2 and said.startswith("error: series.nc: changed while it was read")
        is_right &= said.count("\n") == 1 and not (case / "fine.nc").exists()
        return "" if is_right else f"status {status}: {said[-300:]}"
    with netCDF4.Dataset(case / "fine.nc") as ds:
        thk_m = others[ds.source_sha256]
        means = ds["thk"][...].mean(axis=(1, 2))
    return "" if np.allclose(means, thk_m * np.arange(1, 4), atol=0.1) else f"times of two: {means}"


# ---------------------------------------------------------------- damaged files


def damage_bytes(path, rng):
    """Damage a file, whatever it is; returns what was done."""
    content = path.read_bytes()
    how = str(rng.choice(["empty", "zeros", "half", "flipped", "text", "removed"]))
    if how == "removed":
        path.unlink()
    else:
        at = int(rng.integers(len(content)))
        flipped = content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1:]
        path.write_bytes({"empty": b"", "zeros": bytes(len(content)), "flipped": flipped,
                          "half": content[:len(content) // 2], "text": b"\xff\x00 nonsense"}[how])
    return how


def damage_json(path, rng):
    """Take a key of a JSON file away, or give it a value of another type; returns what was done."""
    content = json.loads(path.read_text())
    strange = [None, [], {}, "text", -1, 3.5, 1e400, True, [[]], {"a": 1}, "", [None]]
    value = strange[int(rng.integers(len(strange)))]
    part, key = content, str(rng.choice(list(content)))
    while isinstance(part[key], dict) and part[key] and rng.integers(2):
        part, key = part[key], str(rng.choice(list(part[key])))
    how = int(rng.integers(5))
    if how == 0:
        content = value
    elif how < 3:
        del part[key]
    else:
        part[key] = value
    path.write_text(json.dumps(content))
    return f"{'all' if how == 0 else key} {'removed' if 0 < how < 3 else value}"


def exchange(case, rng, reference):
    """What belongs to another run, or is called otherwise, in the place of a run's own."""
    other, own = reference["other"] / "checkpoints/r", case / "checkpoints/r"
    how = str(rng.choice(["best", "latest", "settings.json", "no settings", "pointer", "renamed",
                          "linked"]))
    if how == "no settings":
        (own / "settings.json").unlink()
    elif how == "pointer":
        for pointer in own.glob("*/checkpoint"):
            name = next((other / pointer.parent.name).glob("*.index")).with_suffix("")
            pointer.write_text(f'model_checkpoint_path: "{name}"\n')
    elif how == "renamed":
        shutil.copytree(own, case / "checkpoints/q")
        own.rename(case / "checkpoints/other")
        (case / "checkpoints/q").rename(own)
    elif how == "settings.json":
        shutil.copy(other / how, own / how)
    else:
        for part in ("latest", "best") if how == "linked" else (how,):
            shutil.rmtree(own / part)
            if how == "linked":
                (own / part).symlink_to(other / part)
            else:
                shutil.copytree(other / part, own / part)
    return how


def damaged(case, rng, reference):
    """A file of a stopped or a finished run is damaged; then it is trained, scored or compared."""
    finished = bool(rng.integers(2))
    shutil.copytree(reference["finished" if finished else "stopped"], case, dirs_exist_ok=True)
    script, argv = train, TRAIN
    if finished:
        script, argv = [(train, TRAIN), (evaluate, ["--run", "r"]),
                        (evaluate, ["--compare", "r"])][int(rng.integers(3))]
    which = int(rng.integers(5))
    if which == 0:
        path, how = case, exchange(case, rng, reference)
    elif which < 3:
        names = ["checkpoints/r/settings.json", *(["results/r/metrics.json"] * finished)]
        path = case / str(rng.choice(names))
        how = damage_json(path, rng)
    else:
        files = [path for path in (case / "checkpoints").rglob("*")
                 if path.is_file() and path.name != ".lock"]
        files += (case / "results").rglob("*.json")
        path = files[int(rng.integers(len(files)))]
        how = damage_bytes(path, rng)
    status, _, said = run(case, script, argv)
    if status == 2:
        wrong = "" if said.startswith("error: ") and said.count("\n") == 1 and (
            "r/" in said or "run r" in said) else said[-400:]
    elif status or said:
        wrong = f"status {status}: {said[-400:]}"
    elif script is train:
        wrong = "" if (case / "weights").read_text() == reference["weights"] else "other weights"
    else:
        wrong = "" if scores_of(case) == scores_of(reference["finished"]) or path.name.endswith(
            "metrics.json") else "other scores"
    return wrong and f"{path.relative_to(case)} {how}, {script.__name__}: {wrong}"


def scores_of(folder):
    return json.loads((folder / "results/r/metrics.json").read_text())["test"]["errors"]


# ---------------------------------------------------------------- all of them


KINDS = {"kill -9": killed, "power cut": cut, "two at once": pair, "damaged state": damaged,
         "two of one name": two_of_one_name, "read in training": read_in_training,
         "map replaced": map_replaced}


def prepare(folder, rng):
    """What all cases share: a run that nothing happened to, one that was stopped, another one."""
    start_folder, reference = folder / "start", {}
    (start_folder / "data").mkdir(parents=True)
    sheet = prepare_data.make_synthetic_map(seed=3, shape=(123, 164))
    with netCDF4.Dataset(folder / "map.nc", "w") as ds:
        for name in ("x", "y", "thk", "topg"):
            dims = (name,) if name in "xy" else ("y", "x")
            if name in "xy":
                ds.createDimension(name, len(sheet[name]))
            ds.createVariable(name, "f8", dims)[...] = sheet[name]
            ds[name].units = "m"
    prepare_data.prepare(2, map_files.read_map(folder / "map.nc"), window=WINDOW,
                         output=start_folder / "data/patches.nc")
    reference["start"] = start_folder
    for name in ("finished", "stopped", "other"):
        shutil.copytree(start_folder, folder / name)
        reference[name] = folder / name
    started = time.monotonic()
    counts = folder / "finished" / "events"

    def count():
        disk = Disk(0, "", False)
        end = os._exit
        os._exit = lambda status: (counts.write_text(str(disk.events)), end(status))

    assert wait(start(reference["finished"], train, TRAIN, count)) == 0, (
        reference["finished"] / "err").read_text()
    reference |= {"seconds": time.monotonic() - started, "events": int(counts.read_text()),
              "weights": (reference["finished"] / "weights").read_text()}
    assert run(reference["other"], train, [*TRAIN, "--seed", "5"])[0] == 0

    def stop():
        rate = train.learning_rate
        train.learning_rate = lambda settings, epoch: rate(settings, epoch) if epoch < 8 else (
            os.kill(os.getpid(), signal.SIGKILL))

    wait(start(reference["stopped"], train, TRAIN, stop))
    return reference


def one(job):
    """Do a case in a folder of its own: what was wrong, or ""."""
    kind, number, seed, folder, reference = job
    case = folder / f"{kind.replace(' ', '_')}_{number}"
    shutil.copytree(reference["start"], case)
    try:
        wrong = KINDS[kind](case, np.random.default_rng(seed), reference)
    except Exception:
        wrong = traceback.format_exc()
    shutil.rmtree(case, ignore_errors=True)
    return kind, f"{kind} {number}: {wrong}" if wrong else ""


def run_cases(rng, counts):
    """Do counts[kind] cases of each kind: {kind: (tried, right)}; what was not right is printed."""
    jobs, results = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        reference = prepare(Path(scratch), rng)
        for kind in KINDS:
            jobs += [(kind, number, int(rng.integers(2**32)), Path(scratch), reference)
                     for number in range(counts.get(kind, 0))]
        with multiprocessing.get_context("fork").Pool(CORES) as pool:
            for kind, wrong in pool.imap_unordered(one, jobs):
                tried, right = results.get(kind, (0, 0))
                results[kind] = (tried + 1, right + (not wrong))
                if wrong:
                    print(wrong, flush=True)
    return results
