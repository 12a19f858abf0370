"""A run's folder on the disk, checkpoints/<run>/: its settings, its checkpoints, and its lock.

The folder is the run. settings.json says how it was made, and every checkpoint has a checksum of
these settings: one that another run made is refused. latest/ has the last two checkpoints of a
training, best/ its layers. A checkpoint is on the disk before its name is, and the one before is
removed after that, so a power cut costs seconds.
"""

import contextlib
import csv
import fcntl
import hashlib
import json
import os
from pathlib import Path

import maps
import model
import prepare_data
import utils
from icesheet.device import tf
from utils import InputError

TEXTS = ("source", "source_sha256", "source_title", "citation", "record_text")
KIND = {  # of settings.json, see utils.misfit; what the keys mean is said in model.SETTINGS
    "run": str, "scale": utils.SCALES, "recipe": str, "grid": ("own", "fine"),
    "base": model.BASES, "consistency": bool, "gradients": model.GRADIENTS,
    "channels": model.CHANNELS, "bed_levels": (1, 2), "filters": [int],
    "padding": ("CONSTANT", "SYMMETRIC"), "kernels": [int], "correction_m": (float, type(None)),
    "weights": ("he", "normal"), "learning_rate": float, "adam_epsilon": float,
    "loss": model.LOSSES, "schedule": ("constant", "cosine"), "epochs": int, "batch_size": int,
    "augment": bool, "spacings": [int], "thinned": float, "average_turns": bool,
    "validation": bool, "seed": int, "patches": str, "versions": {None: str}, "n_threads?": int,
    "data": {
        **dict.fromkeys(TEXTS, str), "taken?": str, "record": int, "synthetic": bool,
        "degrade": ("bicubic", "area"), "split_method": ("random", "block"), "fold": list,
        "test_size": float, "seed": int, "window": [float], "spacing_m": float,
        "thk_max_m": float, "thk_norm_m": float, "topg_norm_m": float, "densities?": [float],
        "crs": dict},
    "uncertainty?": {
        "slope": float, "intercept": float, "relative": bool, "constant": dict,
        "factors": {"all": float, None: float},
        "blocks": {"all": int, None: int}, "shape": [float], "variance": float,
        "together": {"all": float, None: float}, "held_out": int, "seen_m": float,
        "margin": float}}
KEPT = 2  # checkpoints of latest/


# ---------------------------------------------------------------- files of settings and metrics


def read_checked(path, kind, hint):
    """The content of a JSON file, of a kind (see misfit); InputError with `hint` where it is not.

    Every file of settings or metrics is read here: what is wrong with it is said by its key.
    """
    content = utils.read_json(path, hint)
    wrong = misfit(content, kind)
    if wrong:
        raise InputError(f"{path}: {wrong}: damaged, or written by an older version; {hint}")
    return content


def misfit(value, kind, key=""):
    """What is wrong with a value read from a file, naming its key, or "" where it fits a kind.

    kind: bool, int, float (whole or not, finite), str, dict or list; a tuple: one of these values;
    a list of one kind: a list of such, not empty; {key: kind}: a dict with at least these keys, one
    whose name ends in "?" may be missing; {None: kind}: a dict of such values.
    """
    where = f"{key} {json.dumps(value, default=str)[:60]}" if key else json.dumps(value)[:60]
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return f"{where}, expected a {{...}} of keys and values"
        for name, inner in kind.items():
            for each in value if name is None else [name.removesuffix("?")]:
                full = f"{key}.{each}" if key else each
                if each not in value:
                    if not name.endswith("?"):
                        return f"no {full} in it"
                elif wrong := misfit(value[each], inner, full):
                    return wrong
        return ""
    if isinstance(kind, list):
        if not isinstance(value, list) or not value:
            return f"{where}, expected a list"
        return next(filter(None, (misfit(each, kind[0], key) for each in value)), "")
    if isinstance(kind, tuple):
        fits = any(not misfit(value, each) if isinstance(each, type) else
                   value == each and type(value) is type(each) for each in kind)
        return "" if fits else f"{where}, expected one of {', '.join(map(str, kind))}"
    fits = (type(value) in (int, float) and abs(value) < 1e300 if kind is float
            else type(value) is kind)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text",
             dict: "a {...} of keys and values", list: "a list", type(None): "null"}
    return "" if fits else f"{where}, expected {names[kind]}"


# ---------------------------------------------------------------- settings


def folder_of(run):
    """The folder of a run."""
    return utils.CHECKPOINTS / run


def read_settings(run):
    """The settings of a run (see model.SETTINGS), from checkpoints/<run>/settings.json.

    Raises InputError where there are none, and, naming the key, where one is missing or will not
    do: damaged, written by an older version, or of another run.
    """
    path = folder_of(run) / "settings.json"
    settings = read_checked(path, KIND, "train the run " + (
        "again with --scale and --restart" if path.exists() else
        f"first: python train.py --run {run} --scale 2|4|8|16"))
    if not settings["patches"]:
        raise InputError(f'{path}: patches "", expected the path of a file; train the run again '
                         "with --scale and --restart")
    if settings["run"] != run:
        raise InputError(f"{path}: this is the run {settings['run']}, copied or renamed; give the "
                         f"folder that name again, or train run {run} with --restart")
    last = [of_part[0] for of_part in (list_checkpoints(folder_of(run) / part) for part in (
        "latest", "best")) if of_part and not damage(of_part[0])]
    if last and settings_sha256(settings) not in map(made_with, last):
        raise InputError(unlike(last[0]))
    return settings


def unlike(path):
    """What to say of a checkpoint that other settings made."""
    return (f"{path}: not the layers that settings.json describes: other settings made them, "
            "another run, or an older version; train again with --scale and --restart")


def write_settings(settings):
    """Write settings.json of a run."""
    utils.write_json(folder_of(settings["run"]) / "settings.json", settings)


def settings_sha256(settings):
    """Checksum of the settings that decide the weights: runs that share it have the same weights.

    Not of the name, the place of the patches and what is fitted afterwards; not of the epochs at a
    constant learning rate, which may go on.
    """
    ignored = {"run", "patches", "versions", "n_threads", "uncertainty"} | (
        {"epochs"} if settings["schedule"] == "constant" else set())
    kept = {key: settings[key] for key in model.SETTINGS if key in settings and key not in ignored}
    kept["data"] = prepare_data.OLDER | kept["data"]
    kept["data"].pop("taken")  # unknown of older files
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------- checkpoints


def list_checkpoints(folder):
    """Paths of the checkpoints in a folder as TensorFlow names them, those of late epochs first.

    What lies there counts, not what the file `checkpoint` says of it.
    """
    found = [path.with_suffix("") for path in Path(folder).glob("ckpt-*.index")]
    return sorted((path for path in found if epoch_of(path).isdecimal()),
                  key=lambda path: -int(epoch_of(path)))


def epoch_of(path):
    """The epoch in the name of a checkpoint, a text."""
    return path.name.removeprefix("ckpt-")


def damage(path):
    """What is wrong with a checkpoint, or "": every value is read, TensorFlow knows checksums."""
    try:
        reader = tf.train.load_checkpoint(str(path))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (ValueError, LookupError, RuntimeError, tf.errors.OpError) as error:
        return utils.one_line(error)[:200] or "unreadable"
    return ""


def made_with(path):
    """Checksum of the settings that made a checkpoint, see settings_sha256; None if unknown.

    Checkpoints from before there was one inside have it in a file beside them, with the checksum
    of the weights that it is of.
    """
    reader, name = tf.train.load_checkpoint(str(path)), "settings/.ATTRIBUTES/VARIABLE_VALUE"
    if name in reader.get_variable_to_shape_map():
        return reader.get_tensor(name).decode()
    beside = Path(f"{path}.settings")
    words = beside.read_text(encoding="utf-8", errors="replace").split() if beside.exists() else []
    return words[0] if words[1:] == [utils.file_sha256(data_file(path))] else None


def data_file(path):
    """The file with the weights of a checkpoint."""
    return f"{path}.data-00000-of-00001"


def find_checkpoint(folder, settings):
    """Path of the last whole checkpoint in a folder, None where there is none at all.

    Says which ones are damaged. Raises InputError where all are, or other settings made it.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        wrong = damage(path)
        if not wrong:
            break
        print(f"note: {path} is damaged ({wrong[:80]})")
    else:
        if paths:
            raise InputError(f"{paths[0]}: not a checkpoint, or damaged ({wrong}); train again "
                             "with --restart")
        return None
    if made_with(path) != settings_sha256(settings):
        raise InputError(unlike(path))
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
    utils.make_folder(folder)
    final = Path(folder) / f"ckpt-{epoch}"
    scratch = utils.temporary_path(final)
    try:
        scratch.mkdir()
        written = Path(tf.train.Checkpoint(**objects).write(str(scratch / final.name)))
        Path(f"{final}.index").unlink(missing_ok=True)  # new weights under an old index are none
        for made, name in ((data_file(written), data_file(final)),
                           (f"{written}.index", f"{final}.index")):
            utils.sync(made)
            os.replace(made, name)
            utils.sync(folder)
    finally:
        utils.remove(scratch)
    with utils.replacing(final.with_name("checkpoint")) as temporary:  # for TensorFlow's own tools
        temporary.write_text(f'model_checkpoint_path: "{final.name}"\n'
                             f'all_model_checkpoint_paths: "{final.name}"\n', encoding="utf-8")


def keep_checkpoints(folder, kept):
    """Remove all from a folder of checkpoints but those of these epochs, and half ones."""
    names = {"checkpoint"} | {Path(name).name for epoch in kept for name in (
        f"ckpt-{epoch}.index", data_file(f"ckpt-{epoch}"))}
    for path in Path(folder).iterdir():
        if path.name not in names and path.name.startswith("ckpt-"):
            utils.remove(path)


def restore(objects, path):
    """Restore everything in a dict of objects from `path`; InputError where it does not fit."""
    try:
        tf.train.Checkpoint(**objects).read(str(path)).assert_existing_objects_matched(
        ).expect_partial()
    except (ValueError, AssertionError, LookupError, tf.errors.OpError) as error:
        raise InputError(
            f"{path}: not the layers that settings.json describes, or damaged "
            f"({utils.one_line(error)[:200]}); train again with --restart") from None


# ---------------------------------------------------------------- a training's state


def make_state(settings):
    """All that a run carries from epoch to epoch: a dict.

    objects: what its checkpoints have, made here once: layers, best_layers (see train.train),
    optimizer, epoch, best_epoch, best_rmse_m, settings (a checksum). history: rows of history.csv.
    The last whole checkpoint is restored where there is one. Raises InputError where it does not
    fit, and where only the best layers are left of a training.
    """
    folder = folder_of(settings["run"])
    tf.keras.utils.set_random_seed(settings["seed"])
    state = {
        "layers": model.build_layers(settings), "best_layers": model.build_layers(settings),
        "optimizer": tf.keras.optimizers.Adam(settings["learning_rate"],
                                              epsilon=settings["adam_epsilon"]),
        "epoch": tf.Variable(0, dtype=tf.int64), "best_epoch": tf.Variable(0, dtype=tf.int64),
        "best_rmse_m": tf.Variable(float("inf"), dtype=tf.float32),
        "settings": tf.Variable(settings_sha256(settings), dtype=tf.string)}
    state["optimizer"].build(model.list_weights(state["layers"]))
    latest = find_checkpoint(folder / "latest", settings)
    if latest is None:
        if list_checkpoints(folder / "best"):
            raise InputError(f"{folder / 'latest'}: no checkpoint to go on from, but a trained run "
                             "in best/; choose another name with --run, or --restart to start it "
                             "over")
        return {"objects": state, "history": []}
    restore(state, latest)
    state = {"objects": state, "history": read_history(settings["run"], int(state["epoch"]))}
    best = folder / "best" / f"ckpt-{int(state['objects']['best_epoch'])}"
    if (list_checkpoints(best.parent) != [best] or damage(best)
            or made_with(best) != settings_sha256(settings)):
        save_best(state, folder)  # the layers are those in latest, which is written before
    return state


def keep_as_best(state):
    """Take the layers as they are for the best ones."""
    objects = state["objects"]
    objects["best_epoch"].assign(objects["epoch"])
    for kept, weight in zip(model.list_weights(objects["best_layers"]),
                            model.list_weights(objects["layers"]), strict=True):
        kept.assign(weight)


def save_best(state, folder):
    """Write the checkpoint of the best layers, and remove all others."""
    objects = state["objects"]
    epoch = int(objects["best_epoch"])
    save_checkpoint(folder / "best", {"layers": objects["best_layers"], "settings":
                                      objects["settings"], "epoch": objects["best_epoch"]}, epoch)
    keep_checkpoints(folder / "best", [epoch])


def save_state(state, settings):
    """Write the checkpoints and history.csv of a run. Raises InputError where that fails."""
    folder = folder_of(settings["run"])
    try:
        # The history may be ahead of latest (read_history cuts it), best is made from latest.
        utils.write_table(folder / "history.csv", state["history"])
        epoch = int(state["objects"]["epoch"])
        save_checkpoint(folder / "latest", state["objects"], epoch)
        before = [int(epoch_of(path)) for path in list_checkpoints(folder / "latest")]
        keep_checkpoints(folder / "latest", [each for each in before if each <= epoch][:KEPT])
        best = folder / "best" / f"ckpt-{int(state['objects']['best_epoch'])}"
        if best not in list_checkpoints(best.parent):
            save_best(state, folder)
    except tf.errors.OpError as error:
        raise InputError(f"{folder}: the checkpoint cannot be written; is the disk full or the "
                         f"folder read-only? ({utils.one_line(error)[:200]})") from None


def read_history(run, epoch=None):
    """The rows of history.csv of a run, up to an epoch; [] where there is no such file.

    Raises InputError where rows are damaged or missing.
    """
    path = folder_of(run) / "history.csv"
    hint = "remove it: the curve of the training up to here is lost with it, nothing else"
    if not path.exists():
        print(f"note: {path} is missing: there is no curve of the training up to here")
        return []
    try:
        rows = utils.read_table(path)
        numbers = [row["epoch"] for row in rows]
        whole = path.read_bytes().endswith(b"\n") and all(
            isinstance(value, int | float) or (value is None and key.startswith("validation"))
            for row in rows for key, value in row.items())
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(f"{path}: damaged ({utils.one_line(error)[:80]}); {hint}") from None
    first = numbers[0] if numbers else 1
    if not rows or not whole or numbers != list(range(first, first + len(rows))) or (
            epoch is not None and numbers[-1] < epoch):
        raise InputError(f"{path}: damaged: rows or values are missing; {hint}")
    return [row for row in rows if epoch is None or row["epoch"] <= epoch]


# ---------------------------------------------------------------- one training at a time


@contextlib.contextmanager
def lock(run):
    """Keep other processes from training a run while the block does; InputError where one does.

    The lock is the operating system's: it ends with the process, however that ends.
    """
    folder = folder_of(run)
    path = folder / ".lock"
    while True:
        utils.make_folder(folder)
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
        for each in (folder, utils.CHECKPOINTS):  # where nothing was trained
            with contextlib.suppress(OSError):
                each.rmdir()


def start_over(run):
    """Remove all of a run and its results, which would no longer be true; the lock stays."""
    for folder in (utils.RESULTS / run, folder_of(run)):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name != ".lock":
                utils.remove(path)


# ---------------------------------------------------------------- a trained run


def best_checkpoint(settings):
    """Path and epoch of the layers of a run's best epoch; InputError where there are none.

    Also where other settings made them.
    """
    folder = folder_of(settings["run"]) / "best"
    path = find_checkpoint(folder, settings)
    if path is None:
        raise InputError(f"{folder}: no checkpoint; train the run first: python train.py "
                         f"--run {settings['run']}")
    return path, int(epoch_of(path))


def weights_sha256(run):
    """Checksum of the weights of a run: results that quote it are of these weights."""
    return utils.file_sha256(data_file(best_checkpoint(read_settings(run))[0]))


def load_layers(settings):
    """The trained layers of a run: those of its best epoch. InputError where they do not fit."""
    path = best_checkpoint(settings)[0]  # first: what made them may not even build
    layers = model.build_layers(settings)
    restore({"layers": layers}, path)
    return layers


def open_run(run, scale=None, densities=None):
    """A trained run for whole maps: its settings, the scale, and its chain, see model.predict.

    scale: may be smaller than the run's; the last stages of its layers do that. densities: in place
    of the run's in the chain [kg m-3]; its settings stay what they are. Raises InputError where
    there is no such run or it has too few stages.
    """
    settings = read_settings(run)
    scale = scale or settings["scale"]
    if scale > settings["scale"]:
        raise InputError(f"run {run} was trained for {settings['scale']}x, not for {scale}x; "
                         "choose a --scale up to that or another --run")
    layers = load_layers(settings)
    if scale != settings["scale"]:  # an uncertainty is that of the whole chain
        settings.pop("uncertainty", None)
    last = dict(list(layers.items())[-model.count_stages(scale):])
    used = utils.with_densities(settings, densities)
    return settings, scale, model.compile_chain(last, used, whole_map=True)


def run_scores(run, weights_sha256):
    """RMSE [m] of a run by method, on its test patches and in its hindcasts: a list of dicts.

    Only of the weights of this checksum.
    """
    folder, scores = utils.RESULTS / run, []
    for path in [folder / "metrics.json", *sorted(folder.glob("hindcast_*.json"))]:
        metrics = utils.read_json(path, "remove it") if path.exists() else {}
        if isinstance(metrics, dict) and metrics.get("weights_sha256") == weights_sha256:
            name, part = ("map", "all") if "all" in metrics else ("source", "test")
            read_checked(path, {name: str, "scale": int, "degrade": str, part: {
                "errors": {None: {"rmse_m": float}}}}, "remove it")
            scores.append({
                "of": "hindcast of the whole map" if part == "all" else "test patches",
                "map": metrics[name], "scale": metrics["scale"], "degrade": metrics["degrade"],
                "rmse_m": {method: round(errors["rmse_m"], 2)
                           for method, errors in metrics[part]["errors"].items()}})
    return scores


# ---------------------------------------------------------------- maps that a run made


def with_turns(settings, turns):
    """Settings of a run, average_turns the number `turns` (see model.predict); None: the run's."""
    own = 8 if settings["average_turns"] is True else int(settings["average_turns"]) or 1
    if turns in (None, own):
        return settings | {"average_turns": own}
    if "uncertainty" in settings:
        print("note: no thk_uncertainty: it was calibrated on the spread of 8 turns, not of "
              f"{turns}")
    return {key: value for key, value in settings.items() if key != "uncertainty"} | {
        "average_turns": turns}


def code_sha256():
    """SHA-256 of the scripts: with others a map may come out otherwise."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(
        Path(__file__).parent.glob("*.py")))).hexdigest()


def is_made(path, attributes):
    """Whether the file `path` is there, which means whole, and says that all was the same."""
    if not Path(path).exists():
        return False
    with contextlib.suppress(InputError), maps.open_netcdf(path) as ds:  # another file
        return all(getattr(ds, name, None) == value for name, value in attributes.items()
                   if name not in ("history", "comment", "model_scores"))
    return False
