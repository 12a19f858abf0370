"""A run's folder on the disk, checkpoints/<run>/: its settings, its checkpoints and its lock.

A run is its folder. settings.json records how it was made; every checkpoint carries a checksum of
these settings and is rejected if it does not match. latest/ has the last two checkpoints of a
training, best/ the layers of its best epoch. What they hold is up to the caller: a dict of objects
that TensorFlow can track. A checkpoint is flushed to disk before it is renamed, and the one before
is deleted after that, so a power cut loses at most seconds of training.
"""

import contextlib
import csv
import hashlib
import os
import re
import secrets
from pathlib import Path

from icesheet import command_line, files
from icesheet.command_line import InputError
from icesheet.device import tf
from icesheet.settings import hash_settings, read_validated_json, settings_schema

N_CHECKPOINTS_KEPT = 2  # checkpoints of latest/
N_TRIES = 100           # to read a checkpoint that a training replaces all the time
WEIGHTS = ".data-00000-of-00001"  # what TensorFlow adds to the name of a checkpoint
# What the program makes in checkpoints/<run>/ and results/<run>/, and --restart removes.
MADE_IN_CHECKPOINTS = ("settings.json", "history.csv", "latest/ckpt-*", "latest/checkpoint",
                       "best/ckpt-*", "best/checkpoint", "**/.unfinished-*")
MADE_IN_RESULTS = ("metrics.json", "metrics.csv", "map_*.png", "members_*.png",
                   "reconstruction_*.json", "reconstruction_*.png", "patches/*.png",
                   "**/.unfinished-*", *(
                       f"{name}.png" for name in ("comparison", "window", "training", "patches",
                                                  "spectrum", "reliability")))
MADE_IN_RESULTS += tuple(f"densities_*/{name}" for name in MADE_IN_RESULTS)  # see evaluate.py


def run_folder(run):
    """Return the folder of a run."""
    return files.CHECKPOINTS / run


def read_settings(run):
    """Return the settings of a run (settings.SETTING_DESCRIPTIONS) from its settings.json.

    Raises InputError if there is none, or, naming the key, if one is missing or invalid: the file
    is damaged, written by an older version, or of another run.
    """
    path = run_folder(run) / "settings.json"
    settings = read_validated_json(path, settings_schema, "train the run " + (
        "again with --scale and --restart" if path.exists() else
        f"first: python train.py --run {run} --scale 2|4|8|16"))
    if not settings.get("patches") and "maps" not in settings["data"]:
        raise InputError(f'{path}: patches "", expected the path of a file; train the run again '
                         "with --scale and --restart")
    if settings["run"] != run:
        raise InputError(f"{path}: settings of run {settings['run']}, but the folder is {run}: "
                         "copied or renamed; give the folder that name again, or train run "
                         f"{run} with --restart")
    newest = [checkpoint for part in ("latest", "best")
              if (checkpoint := read_newest_checkpoint(run_folder(run) / part)[0])]
    if newest and hash_settings(settings) not in [
            checkpoint["settings_sha256"] for checkpoint in newest]:
        raise InputError(settings_mismatch_message(newest[0]["path"]))
    return settings


def is_on_maps(run):
    """Return whether a run exists that was trained on whole maps, not on patches."""
    exists = (run_folder(command_line.check_run_name(run)) / "settings.json").exists()
    return exists and "maps" in read_settings(run)["data"]


def settings_mismatch_message(path):
    """Return the error message for a checkpoint whose settings checksum does not match."""
    return (f"{path}: not the layers that settings.json describes: other settings made them, "
            "another run, or an older version; train again with --scale and --restart")


def write_settings(settings):
    """Write settings.json of a run."""
    files.write_json(run_folder(settings["run"]) / "settings.json", settings)


def write_training_settings(settings, first_epoch):
    """Write settings.json of a run that trains from this epoch on, with the versions of libraries.

    Those of epochs that are trained already stay: a library may have been upgraded since.
    """
    path, now = run_folder(settings["run"]) / "settings.json", files.package_versions()
    versions, later = now, {}
    if first_epoch > 1 and path.exists():
        old_settings = read_settings(settings["run"])
        versions = old_settings["versions"]
        later = {epoch: other for epoch, other in old_settings.get("later_versions", {}).items()
                 if epoch.isdecimal() and int(epoch) < first_epoch}
        if first_epoch <= settings["epochs"] and now != [versions, *later.values()][-1]:
            later[str(first_epoch)] = now
    write_settings(settings | {"versions": versions} | ({"later_versions": later} if later else {}))


def list_checkpoints(folder):
    """Return the paths of the checkpoints in a folder as TensorFlow names them, latest epoch first.

    What lies there counts, not what TensorFlow's file `checkpoint` says of it.
    """
    paths = [path.with_suffix("") for path in Path(folder).glob("ckpt-*.index")]
    return sorted((path for path in paths if checkpoint_epoch(path).isdecimal()),
                  key=lambda path: -int(checkpoint_epoch(path)))


def checkpoint_epoch(path):
    """Return the epoch in the name of a checkpoint, a text."""
    return path.name.removeprefix("ckpt-")


def read_checkpoint(path):
    """Read a checkpoint whole; None where its files are gone, or others by now.

    A training replaces checkpoints while they are read. So both files are opened, and are of one
    checkpoint if the index still has its name after that: it is removed first, and renamed last.
    Returns a dict: path; files, {suffix: bytes}; damage, what is wrong with it or ""; and, of a
    whole one, settings_sha256 (None if unknown) and weights_sha256.
    """
    contents = {".index": b"", WEIGHTS: b""}
    try:
        with open(f"{path}.index", "rb") as index:
            with contextlib.suppress(FileNotFoundError), open(f"{path}{WEIGHTS}", "rb") as weights:
                contents[WEIGHTS] = weights.read()
            contents[".index"] = index.read()
            if not files.is_open_file(index.fileno(), f"{path}.index"):
                return None
    except FileNotFoundError:
        return None
    checkpoint = {"path": path, "files": contents, "damage": "",
                  "weights_sha256": hashlib.sha256(contents[WEIGHTS]).hexdigest()}
    try:
        with tensorflow_path(contents) as in_memory:
            reader = tf.compat.v1.train.NewCheckpointReader(in_memory)
            values = {name: reader.get_tensor(name)  # every value: TensorFlow knows checksums
                      for name in reader.get_variable_to_shape_map()}
    except (ValueError, LookupError, RuntimeError, tf.errors.OpError) as error:
        return checkpoint | {"damage": command_line.one_line(error)[:200] or "unreadable"}
    sha256 = values.get("settings/.ATTRIBUTES/VARIABLE_VALUE", b"").decode()
    beside = Path(f"{path}.settings")  # of older versions: checksums of settings and of weights
    if not sha256 and beside.exists():
        words = beside.read_text(encoding="utf-8", errors="replace").split()
        sha256 = words[0] if words[1:] == [checkpoint["weights_sha256"]] else ""
    return checkpoint | {"settings_sha256": sha256}


@contextlib.contextmanager
def tensorflow_path(contents):
    """Give a path under which TensorFlow finds the files {suffix: bytes} of a checkpoint."""
    path = f"ram://{secrets.token_hex(8)}/ckpt"
    try:
        for suffix, content in contents.items():
            with tf.io.gfile.GFile(path + suffix, "wb") as file:
                file.write(content)
        yield path
    finally:
        for suffix in contents:
            with contextlib.suppress(tf.errors.NotFoundError):
                tf.io.gfile.remove(path + suffix)


def read_newest_checkpoint(folder):
    """Read the newest whole checkpoint in a folder: what read_checkpoint returns, None without any.

    Second, what is wrong with newer ones: {path: damage}.
    """
    for _ in range(N_TRIES):
        damaged = {}
        for path in list_checkpoints(folder):
            checkpoint = read_checkpoint(path)
            if checkpoint is None:
                break  # a training has saved a newer one: list them again
            if not checkpoint["damage"]:
                return checkpoint, damaged
            damaged[path] = checkpoint["damage"]
        else:
            return None, damaged
    raise InputError(f"{folder}: a training replaces the checkpoints all the time; try again later")


def restore_newest(objects, folder, settings):
    """Restore a dict of objects from the newest whole checkpoint in a folder.

    Returns {"path", "epoch", "weights_sha256"} of that checkpoint; None where there is none at all.
    Prints which ones are damaged. Raises InputError where all are, where other settings made it,
    or where the objects are not what it holds.
    """
    checkpoint, damaged = read_newest_checkpoint(folder)
    for path, damage in damaged.items():
        print(f"note: {path} is damaged ({damage[:80]})")
    if checkpoint is None and damaged:
        path, damage = next(iter(damaged.items()))
        raise InputError(f"{path}: not a checkpoint, or damaged ({damage}); train again with "
                         "--restart")
    if checkpoint is None:
        return None
    path = checkpoint["path"]
    if checkpoint["settings_sha256"] != hash_settings(settings):
        raise InputError(settings_mismatch_message(path))
    if damaged:
        print(f"note: {path.name} is used")
    try:
        with tensorflow_path(checkpoint["files"]) as in_memory:
            tf.train.Checkpoint(**objects).read(in_memory).assert_existing_objects_matched(
            ).expect_partial()
    except (ValueError, AssertionError, LookupError, tf.errors.OpError) as error:
        raise InputError(
            f"{path}: not the layers that settings.json describes, or damaged "
            f"({command_line.one_line(error)[:200]}); train again with --restart") from None
    return {"path": path, "epoch": int(checkpoint_epoch(path)),
            "weights_sha256": checkpoint["weights_sha256"]}


def restore_best(objects, settings):
    """Restore the layers of a run's best epoch, `objects` {"layers": ...}; {}: only look for them.

    Returns {"epoch", "weights_sha256"} of what was restored, for results to quote. Raises
    InputError where there are none, or other settings made them.
    """
    folder = run_folder(settings["run"]) / "best"
    best = restore_newest(objects, folder, settings)
    if best is None:
        raise InputError(f"{folder}: no checkpoint; train the run first: python train.py "
                         f"--run {settings['run']}")
    return {key: best[key] for key in ("epoch", "weights_sha256")}


def restore_start(layers, start_from):
    """Restore the layers that a training starts from: the best ones of another run.

    start_from: of the settings, {"run", "weights_sha256"}. Raises InputError if that run has other
    weights by now.
    """
    info = restore_best({"layers": layers}, read_settings(start_from["run"]))
    if info["weights_sha256"] != start_from["weights_sha256"]:
        raise InputError(f"run {start_from['run']} was trained again since this run was started "
                         "from it; start this one over with --restart")


def hash_weights(run):
    """Return the checksum of the weights of a run, which its results quote."""
    return restore_best({}, read_settings(run))["weights_sha256"]


def resume_training(objects, settings):
    """Restore the newest whole checkpoint of a run into `objects`; return the rows of history.csv.

    objects: {name: what TensorFlow can track}, all that a run carries from epoch to epoch (see
    train.build_objects). A run without any checkpoint starts with them as they are and [].
    Raises InputError where the checkpoint does not fit, and where only best/ is left of a training.
    """
    folder = run_folder(settings["run"])
    latest = restore_newest(objects, folder / "latest", settings)
    if latest is None:
        if list_checkpoints(folder / "best"):
            raise InputError(f"{folder / 'latest'}: no checkpoint to resume from, but best/ has a "
                             "trained run; choose another name with --run, or --restart to start "
                             "it over")
        return []
    history = read_history(settings["run"], int(objects["epoch"]))
    best, (checkpoint, _) = folder / "best", read_newest_checkpoint(folder / "best")
    if (list_checkpoints(best) != [best / f"ckpt-{int(objects['best_epoch'])}"]
            or checkpoint is None or checkpoint["settings_sha256"] != hash_settings(settings)):
        save_best(objects, folder)  # the layers are those in latest, which is written before
    return history


def save_training_state(objects, history, settings):
    """Write the checkpoints and history.csv of a run. Raises InputError where that fails."""
    folder = run_folder(settings["run"])
    try:
        # The history may be ahead of latest (read_history cuts it), best is made from latest.
        files.write_table(folder / "history.csv", history)
        epoch = int(objects["epoch"])
        save_checkpoint(folder / "latest", objects, epoch)
        # Later epochs are those of a training that went on from an earlier checkpoint.
        epochs = [int(checkpoint_epoch(path)) for path in list_checkpoints(folder / "latest")]
        delete_other_checkpoints(folder / "latest", [
            saved for saved in epochs if saved <= epoch][:N_CHECKPOINTS_KEPT])
        best = folder / "best" / f"ckpt-{int(objects['best_epoch'])}"
        if best not in list_checkpoints(best.parent):
            save_best(objects, folder)
    except tf.errors.OpError as error:
        raise InputError(f"{folder}: the checkpoint cannot be written; is the disk full or the "
                         f"folder read-only? ({command_line.one_line(error)[:200]})") from None


def save_best(objects, folder):
    """Write the checkpoint of the best layers, and remove all others."""
    epoch = int(objects["best_epoch"])
    save_checkpoint(folder / "best", {"layers": objects["best_layers"], "settings":
                                      objects["settings"], "epoch": objects["best_epoch"]}, epoch)
    delete_other_checkpoints(folder / "best", [epoch])


def save_checkpoint(folder, objects, epoch):
    """Write a checkpoint of {name: what TensorFlow can track}; those that are there stay.

    Weights and index are on the disk before the first name is there, and the index, without which
    it is not one (see list_checkpoints), comes last.
    """
    files.make_durable_folder(folder)
    path = Path(folder) / f"ckpt-{epoch}"
    with files.scratch_folder(path.parent) as scratch:
        tf.train.Checkpoint(**objects).write(str(scratch / path.name))
        Path(f"{path}.index").unlink(missing_ok=True)  # new weights under an old index are none
        for suffix in (WEIGHTS, ".index"):
            files.flush_to_disk(f"{scratch / path.name}{suffix}")
            os.replace(f"{scratch / path.name}{suffix}", f"{path}{suffix}")
            files.flush_to_disk(folder)
    with files.atomic_write(path.with_name("checkpoint")) as pointer:  # for TensorFlow's own tools
        pointer.write_text(f'model_checkpoint_path: "{path.name}"\n'
                           f'all_model_checkpoint_paths: "{path.name}"\n', encoding="utf-8")


def delete_other_checkpoints(folder, kept_epochs):
    """Remove all checkpoints in a folder, whole or half, but those of these epochs."""
    kept = {f"ckpt-{epoch}{suffix}" for epoch in kept_epochs for suffix in (".index", WEIGHTS)}
    for path in Path(folder).iterdir():
        if re.match(r"ckpt-\d", path.name) and path.name not in kept:
            files.delete_path(path)


def read_history(run, epoch=None):
    """Return the rows of history.csv of a run, up to an epoch; [] where there is no such file.

    Raises InputError where rows are damaged or missing.
    """
    path = run_folder(run) / "history.csv"
    hint = "remove it to continue; only the training curve up to here is lost"
    if not path.exists():
        print(f"note: {path} is missing: there is no curve of the training up to here")
        return []
    try:
        rows = files.read_table(path)
        epochs = [row["epoch"] for row in rows]
        is_whole = path.read_bytes().endswith(b"\n") and all(
            isinstance(value, int | float) or (value is None and key.startswith("validation"))
            for row in rows for key, value in row.items())
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(f"{path}: damaged ({command_line.one_line(error)[:80]}); {hint}") from None
    first = epochs[0] if epochs else 1
    if not rows or not is_whole or epochs != list(range(first, first + len(rows))) or (
            epoch is not None and epochs[-1] < epoch):
        raise InputError(f"{path}: damaged: rows or values are missing; {hint}")
    return [row for row in rows if epoch is None or row["epoch"] <= epoch]


@contextlib.contextmanager
def lock_run(run):
    """Keep other processes from training a run while the block does; InputError where one does.

    The lock is the operating system's: it ends with the process, however that ends.
    """
    folder, is_locked = run_folder(run), False
    path = folder / ".lock"
    while not is_locked:
        files.make_durable_folder(folder)
        try:
            opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the other process has just removed the folder
            continue
        if files.lock_file(opened) is False:
            os.close(opened)
            raise InputError(f"run {run} is being trained by another process; wait for it, or "
                             "choose another name with --run")
        # The file may be that of a process which has removed it since: no other would see the lock.
        is_locked = files.is_open_file(opened, path)
        if not is_locked:
            os.close(opened)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(opened)
        for empty in (folder, files.CHECKPOINTS):  # where nothing was trained
            with contextlib.suppress(OSError):
                empty.rmdir()


def delete_run(run):
    """Remove what the program made of a run and its results, and nothing else that lies there."""
    for folder, patterns in ((files.RESULTS / run, MADE_IN_RESULTS),
                             (run_folder(run), MADE_IN_CHECKPOINTS)):
        for path in [path for pattern in patterns for path in folder.glob(pattern)]:
            files.delete_path(path)
        for empty in sorted(folder.glob("**/"), reverse=True):  # what is inside comes first
            with contextlib.suppress(OSError):  # a user's files are in it, or the lock
                empty.rmdir()


def read_run_scores(run, weights_sha256):
    """Return the RMSE [m] of a run by method, on test patches and in reconstruction tests.

    A list of dicts, only of results that quote this checksum of the weights.
    """
    folder, scores = files.RESULTS / run, []
    for path in [folder / "metrics.json", *sorted(folder.glob("reconstruction_*.json"))]:
        metrics = files.read_json(path, "remove it") if path.exists() else {}
        if isinstance(metrics, dict) and metrics.get("weights_sha256") == weights_sha256:
            name, part = ("map", "all") if "all" in metrics else ("source", "test")
            read_validated_json(path, {name: str, "scale": int, "degrade": str, part: {
                "errors": {None: {"rmse_m": float}}}}, "remove it")
            scores.append({
                "of": "reconstruction of the whole map" if part == "all" else "test patches",
                "map": metrics[name], "scale": metrics["scale"], "degrade": metrics["degrade"],
                "rmse_m": {method: round(errors["rmse_m"], 2)
                           for method, errors in metrics[part]["errors"].items()}})
    return scores
