"""A run's folder on the disk, checkpoints/<run>/: its settings, its checkpoints, and its lock.

The folder is the run. settings.json says how it was made, and every checkpoint has a checksum of
these settings: one that another run made is refused. latest/ has the last two checkpoints of a
training, best/ its layers. A checkpoint is on the disk before its name is, and the one before is
removed after that, so a power cut costs seconds.
"""

import contextlib
import csv
import fcntl
import os
from pathlib import Path

from icesheet import command_line, files
from icesheet.command_line import InputError
from icesheet.device import tf
from icesheet.settings import SETTINGS_SCHEMA, hash_settings, read_validated_json

N_CHECKPOINTS_KEPT = 2  # checkpoints of latest/


def run_folder(run):
    """The folder of a run."""
    return files.CHECKPOINTS / run


def read_settings(run):
    """The settings of a run (see settings.SETTING_DESCRIPTIONS), from checkpoints/<run>/settings.json.

    Raises InputError where there are none, and, naming the key, where one is missing or will not
    do: damaged, written by an older version, or of another run.
    """
    path = run_folder(run) / "settings.json"
    settings = read_validated_json(path, SETTINGS_SCHEMA, "train the run " + (
        "again with --scale and --restart" if path.exists() else
        f"first: python train.py --run {run} --scale 2|4|8|16"))
    if not settings["patches"]:
        raise InputError(f'{path}: patches "", expected the path of a file; train the run again '
                         "with --scale and --restart")
    if settings["run"] != run:
        raise InputError(f"{path}: this is the run {settings['run']}, copied or renamed; give the "
                         f"folder that name again, or train run {run} with --restart")
    last = [of_part[0] for of_part in (list_checkpoints(run_folder(run) / part) for part in (
        "latest", "best")) if of_part and not find_checkpoint_damage(of_part[0])]
    if last and hash_settings(settings) not in map(read_settings_checksum, last):
        raise InputError(settings_mismatch_message(last[0]))
    return settings


def settings_mismatch_message(path):
    """What to say of a checkpoint that other settings made."""
    return (f"{path}: not the layers that settings.json describes: other settings made them, "
            "another run, or an older version; train again with --scale and --restart")


def write_settings(settings):
    """Write settings.json of a run."""
    files.write_json(run_folder(settings["run"]) / "settings.json", settings)


def list_checkpoints(folder):
    """Paths of the checkpoints in a folder as TensorFlow names them, those of late epochs first.

    What lies there counts, not what the file `checkpoint` says of it.
    """
    found = [path.with_suffix("") for path in Path(folder).glob("ckpt-*.index")]
    return sorted((path for path in found if checkpoint_epoch(path).isdecimal()),
                  key=lambda path: -int(checkpoint_epoch(path)))


def checkpoint_epoch(path):
    """The epoch in the name of a checkpoint, a text."""
    return path.name.removeprefix("ckpt-")


def find_checkpoint_damage(path):
    """What is wrong with a checkpoint, or "": every value is read, TensorFlow knows checksums."""
    try:
        reader = tf.train.load_checkpoint(str(path))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (ValueError, LookupError, RuntimeError, tf.errors.OpError) as error:
        return command_line.one_line(error)[:200] or "unreadable"
    return ""


def read_settings_checksum(path):
    """Checksum of the settings that made a checkpoint, see settings_sha256; None if unknown.

    Checkpoints from before there was one inside have it in a file beside them, with the checksum
    of the weights that it is of.
    """
    reader, name = tf.train.load_checkpoint(str(path)), "settings/.ATTRIBUTES/VARIABLE_VALUE"
    if name in reader.get_variable_to_shape_map():
        return reader.get_tensor(name).decode()
    beside = Path(f"{path}.settings")
    words = beside.read_text(encoding="utf-8", errors="replace").split() if beside.exists() else []
    return words[0] if words[1:] == [files.hash_file(weights_file(path))] else None


def weights_file(path):
    """The file with the weights of a checkpoint."""
    return f"{path}.data-00000-of-00001"


def find_latest_valid_checkpoint(folder, settings):
    """Path of the last whole checkpoint in a folder, None where there is none at all.

    Says which ones are damaged. Raises InputError where all are, or other settings made it.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        wrong = find_checkpoint_damage(path)
        if not wrong:
            break
        print(f"note: {path} is damaged ({wrong[:80]})")
    else:
        if paths:
            raise InputError(f"{paths[0]}: not a checkpoint, or damaged ({wrong}); train again "
                             "with --restart")
        return None
    if read_settings_checksum(path) != hash_settings(settings):
        raise InputError(settings_mismatch_message(path))
    pointer = Path(folder) / "checkpoint"
    said = pointer.read_text(errors="replace") if pointer.is_file() else ""
    if f'model_checkpoint_path: "{path.name}"' not in said.splitlines():
        print(f"note: {pointer} does not name the last whole checkpoint; {path.name} is used")
    return path


def save_checkpoint(folder, objects, epoch):
    """Write a checkpoint of {name: what TensorFlow can track}; those that are there stay.

    Weights and index are on the disk before the first name is there, and the index, without which
    it is not one (see list_checkpoints), comes last.
    """
    files.make_durable_folder(folder)
    final = Path(folder) / f"ckpt-{epoch}"
    scratch = files.temporary_path(final)
    try:
        scratch.mkdir()
        written = Path(tf.train.Checkpoint(**objects).write(str(scratch / final.name)))
        Path(f"{final}.index").unlink(missing_ok=True)  # new weights under an old index are none
        for made, name in ((weights_file(written), weights_file(final)),
                           (f"{written}.index", f"{final}.index")):
            files.flush_to_disk(made)
            os.replace(made, name)
            files.flush_to_disk(folder)
    finally:
        files.delete_path(scratch)
    with files.atomic_write(final.with_name("checkpoint")) as temporary:  # for TensorFlow's own tools
        temporary.write_text(f'model_checkpoint_path: "{final.name}"\n'
                             f'all_model_checkpoint_paths: "{final.name}"\n', encoding="utf-8")


def delete_other_checkpoints(folder, kept):
    """Remove all from a folder of checkpoints but those of these epochs, and half ones."""
    names = {"checkpoint"} | {Path(name).name for epoch in kept for name in (
        f"ckpt-{epoch}.index", weights_file(f"ckpt-{epoch}"))}
    for path in Path(folder).iterdir():
        if path.name not in names and path.name.startswith("ckpt-"):
            files.delete_path(path)


def restore_checkpoint(objects, path):
    """Restore everything in a dict of objects from `path`; InputError where it does not fit."""
    try:
        tf.train.Checkpoint(**objects).read(str(path)).assert_existing_objects_matched(
        ).expect_partial()
    except (ValueError, AssertionError, LookupError, tf.errors.OpError) as error:
        raise InputError(
            f"{path}: not the layers that settings.json describes, or damaged "
            f"({command_line.one_line(error)[:200]}); train again with --restart") from None


def resume_training(objects, settings):
    """Restore the newest whole checkpoint of a run into `objects`; return the rows of history.csv.

    objects: {name: what TensorFlow can track}, all that a run carries from epoch to epoch (see
    train.build_objects). A run without any checkpoint starts with them as they are and [].
    Raises InputError where the checkpoint does not fit, and where only best/ is left of a training.
    """
    folder = run_folder(settings["run"])
    latest = find_latest_valid_checkpoint(folder / "latest", settings)
    if latest is None:
        if list_checkpoints(folder / "best"):
            raise InputError(f"{folder / 'latest'}: no checkpoint to go on from, but a trained run "
                             "in best/; choose another name with --run, or --restart to start it "
                             "over")
        return []
    restore_checkpoint(objects, latest)
    history = read_history(settings["run"], int(objects["epoch"]))
    best = folder / "best" / f"ckpt-{int(objects['best_epoch'])}"
    if (list_checkpoints(best.parent) != [best] or find_checkpoint_damage(best)
            or read_settings_checksum(best) != hash_settings(settings)):
        save_best(objects, folder)  # the layers are those in latest, which is written before
    return history


def save_best(objects, folder):
    """Write the checkpoint of the best layers, and remove all others."""
    epoch = int(objects["best_epoch"])
    save_checkpoint(folder / "best", {"layers": objects["best_layers"], "settings":
                                      objects["settings"], "epoch": objects["best_epoch"]}, epoch)
    delete_other_checkpoints(folder / "best", [epoch])


def save_training_state(objects, history, settings):
    """Write the checkpoints and history.csv of a run. Raises InputError where that fails."""
    folder = run_folder(settings["run"])
    try:
        # The history may be ahead of latest (read_history cuts it), best is made from latest.
        files.write_table(folder / "history.csv", history)
        epoch = int(objects["epoch"])
        save_checkpoint(folder / "latest", objects, epoch)
        before = [int(checkpoint_epoch(path)) for path in list_checkpoints(folder / "latest")]
        delete_other_checkpoints(folder / "latest", [each for each in before if each <= epoch][:N_CHECKPOINTS_KEPT])
        best = folder / "best" / f"ckpt-{int(objects['best_epoch'])}"
        if best not in list_checkpoints(best.parent):
            save_best(objects, folder)
    except tf.errors.OpError as error:
        raise InputError(f"{folder}: the checkpoint cannot be written; is the disk full or the "
                         f"folder read-only? ({command_line.one_line(error)[:200]})") from None


def read_history(run, epoch=None):
    """The rows of history.csv of a run, up to an epoch; [] where there is no such file.

    Raises InputError where rows are damaged or missing.
    """
    path = run_folder(run) / "history.csv"
    hint = "remove it: the curve of the training up to here is lost with it, nothing else"
    if not path.exists():
        print(f"note: {path} is missing: there is no curve of the training up to here")
        return []
    try:
        rows = files.read_table(path)
        numbers = [row["epoch"] for row in rows]
        whole = path.read_bytes().endswith(b"\n") and all(
            isinstance(value, int | float) or (value is None and key.startswith("validation"))
            for row in rows for key, value in row.items())
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(f"{path}: damaged ({command_line.one_line(error)[:80]}); {hint}") from None
    first = numbers[0] if numbers else 1
    if not rows or not whole or numbers != list(range(first, first + len(rows))) or (
            epoch is not None and numbers[-1] < epoch):
        raise InputError(f"{path}: damaged: rows or values are missing; {hint}")
    return [row for row in rows if epoch is None or row["epoch"] <= epoch]


@contextlib.contextmanager
def lock_run(run):
    """Keep other processes from training a run while the block does; InputError where one does.

    The lock is the operating system's: it ends with the process, however that ends.
    """
    folder = run_folder(run)
    path = folder / ".lock"
    while True:
        files.make_durable_folder(folder)
        try:
            opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the other one has just removed the folder
            continue
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(opened), path.stat()):
                break  # else it was that of a process that has ended since
        except BlockingIOError:
            os.close(opened)
            raise InputError(f"run {run} is being trained by another process; wait for it, or "
                             "choose another name with --run") from None
        os.close(opened)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(opened)
        for each in (folder, files.CHECKPOINTS):  # where nothing was trained
            with contextlib.suppress(OSError):
                each.rmdir()


def delete_run(run):
    """Remove all of a run and its results, which would no longer be true; the lock stays."""
    for folder in (files.RESULTS / run, run_folder(run)):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name != ".lock":
                files.delete_path(path)


def best_checkpoint(settings):
    """Path and epoch of the layers of a run's best epoch; InputError where there are none.

    Also where other settings made them.
    """
    folder = run_folder(settings["run"]) / "best"
    path = find_latest_valid_checkpoint(folder, settings)
    if path is None:
        raise InputError(f"{folder}: no checkpoint; train the run first: python train.py "
                         f"--run {settings['run']}")
    return path, int(checkpoint_epoch(path))


def hash_weights(run):
    """Checksum of the weights of a run: results that quote it are of these weights."""
    return files.hash_file(weights_file(best_checkpoint(read_settings(run))[0]))


def read_run_scores(run, weights_sha256):
    """RMSE [m] of a run by method, on its test patches and in its hindcasts: a list of dicts.

    Only of the weights of this checksum.
    """
    folder, scores = files.RESULTS / run, []
    for path in [folder / "metrics.json", *sorted(folder.glob("reconstruction_*.json"))]:
        metrics = files.read_json(path, "remove it") if path.exists() else {}
        if isinstance(metrics, dict) and metrics.get("weights_sha256") == weights_sha256:
            name, part = ("map", "all") if "all" in metrics else ("source", "test")
            read_validated_json(path, {name: str, "scale": int, "degrade": str, part: {
                "errors": {None: {"rmse_m": float}}}}, "remove it")
            scores.append({
                "of": "hindcast of the whole map" if part == "all" else "test patches",
                "map": metrics[name], "scale": metrics["scale"], "degrade": metrics["degrade"],
                "rmse_m": {method: round(errors["rmse_m"], 2)
                           for method, errors in metrics[part]["errors"].items()}})
    return scores
