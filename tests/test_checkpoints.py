"""A run's folder: what is read of it, and what power cuts, processes and other runs do to it."""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest
from conftest import REPOSITORY, example_settings, load_state, run_main, save_layers
from test_model import fields_of, fill

import downscale
import evaluate
import model
import train
from icesheet import checkpoints, files
from icesheet.command_line import InputError
from icesheet.device import tf
from icesheet.settings import (
    PATCH_FILE_ATTRIBUTES,
    SETTING_DESCRIPTIONS,
    SETTINGS_SCHEMA,
    diff_settings,
    format_differences,
    hash_settings,
)


@pytest.fixture
def run_x4(folder):
    """The run `tiny` at 4x as train.py leaves it, random layers of epoch 7; settings and layers."""
    chosen = example_settings(scale=4, filters=[4], kernels=[3, 3])
    layers = model.build_layers(chosen)
    fill(layers)
    files.write_json("checkpoints/tiny/settings.json", chosen)
    save_layers(chosen, layers, 7)
    return chosen, layers


def test_a_run_is_read_as_it_was_written(run_x4):
    chosen, layers = run_x4
    assert checkpoints.read_settings("tiny") == chosen
    assert checkpoints.restore_best({}, checkpoints.read_settings("tiny"))["epoch"] == 7
    for weight, written in zip(model.list_weights(evaluate.load_layers(chosen)[0]),
                               model.list_weights(layers), strict=True):
        np.testing.assert_array_equal(weight, written)
    before = checkpoints.hash_weights("tiny")
    fill(layers, seed=1)
    save_layers(chosen, layers, 7)
    assert checkpoints.hash_weights("tiny") != before


def test_a_smaller_scale_is_made_by_the_last_stages(run_x4):
    chosen, layers = run_x4
    thk, topg = fields_of("level", 2)
    for scale in (None, 4, 2):
        opened, found, chain, _ = downscale.open_run("tiny", scale)
        assert opened == chosen  # of the run, whatever it is used for
        assert found == (scale or 4)
    last = {"stage2": layers["stage2"]}
    np.testing.assert_allclose(chain(thk, topg)[-1], model.run_chain(
        last, thk, topg, chosen, whole_map=True)[-1], rtol=1e-5, atol=0.01)
    with pytest.raises(InputError, match="tiny was trained for 4x, not for 8x"):
        downscale.open_run("tiny", 8)


def test_invalid_runs_are_rejected_with_reason(run_x4):
    with pytest.raises(InputError, match="absent/settings.json: no such file; train"):
        checkpoints.read_settings("absent")
    with pytest.raises(InputError, match="checkpoints/absent/best: no checkpoint; train"):
        checkpoints.restore_best({}, run_x4[0] | {"run": "absent"})
    for changes in ({"filters": [5]}, {"scale": 8}, {"channels": "thk"}):
        with pytest.raises(InputError, match="not the layers that settings.json describes"):
            evaluate.load_layers(run_x4[0] | changes)
    for key in ("channels", "data"):
        older = {name: value for name, value in run_x4[0].items() if name != key}
        files.write_json("checkpoints/tiny/settings.json", older)
        with pytest.raises(InputError, match=f"no {key} in it: damaged, or written by"):
            downscale.open_run("tiny")


# ---------------------------------------------------------------- checkpoints


def save_all(chosen, *epochs):
    """Save the state of a training of these settings after each of the epochs; returns it."""
    state = load_state(chosen)
    for epoch in epochs:
        state["objects"]["epoch"].assign(epoch)
        train.copy_to_best_layers(state["objects"])
        state["history"].append({"epoch": epoch, "seconds": 1.0 * epoch})
        checkpoints.save_training_state(state["objects"], state["history"], chosen)
    return state


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    """A working folder with the run `tiny`, saved after epochs 1, 2 and 3; its settings."""
    chosen, made = example_settings(filters=[4], kernels=[3, 3]), tmp_path_factory.mktemp("saved")
    with contextlib.chdir(made):
        checkpoints.write_settings(chosen)
        save_all(chosen, 1, 2, 3)
    return made, chosen


@pytest.fixture
def trained(folder, saved_once):
    """A copy of the run `tiny`; its settings."""
    shutil.copytree(saved_once[0], folder, dirs_exist_ok=True)
    return saved_once[1]


def epoch_after_resuming(chosen):
    return int(load_state(chosen)["objects"]["epoch"])


def names_in(path):
    return sorted(each.name for each in path.iterdir())


def test_the_checkpoint_before_is_kept_and_fallen_back_to(trained, folder, capsys):
    latest, best = folder / "checkpoints/tiny/latest", folder / "checkpoints/tiny/best"
    assert [path.name for path in checkpoints.list_checkpoints(latest)] == ["ckpt-3", "ckpt-2"]
    assert names_in(best) == ["checkpoint", "ckpt-3.data-00000-of-00001", "ckpt-3.index"]
    (latest / "ckpt-3.data-00000-of-00001").write_bytes(b"")
    assert epoch_after_resuming(trained) == 2
    said = capsys.readouterr().out
    assert "latest/ckpt-3 is damaged" in said and "ckpt-2 is used" in said
    (best / "ckpt-2.data-00000-of-00001").write_bytes(b"cut short")  # put back by resuming
    with pytest.raises(InputError, match="not a checkpoint, or damaged.*--restart"):
        evaluate.load_layers(trained)
    (latest / "ckpt-2.index").write_bytes(b"")
    with pytest.raises(InputError, match="not a checkpoint, or damaged.*--restart"):
        load_state(trained)


@pytest.mark.parametrize("pointer", [None, b"", b"\0\0", b"\xff",
                                     b'model_checkpoint_path: "/x"'])
def test_a_pointer_that_is_damaged_or_leads_elsewhere_is_not_followed(trained, folder, pointer,
                                                                      capsys):
    for part in ("latest", "best"):
        path = folder / "checkpoints/tiny" / part / "checkpoint"
        path.unlink() if pointer is None else path.write_bytes(pointer)
    assert epoch_after_resuming(trained) == 3
    assert checkpoints.restore_best({}, trained)["epoch"] == 3
    assert capsys.readouterr().out == ""


def test_checkpoints_of_other_settings_are_refused(trained, folder):
    """best/ of another run, settings.json of another or none, a folder renamed."""
    tiny = folder / "checkpoints/tiny"
    other = trained | {"run": "other", "seed": 5}
    save_all(other, 9)
    checkpoints.write_settings(other)
    for part in ("latest", "best"):
        shutil.copytree(tiny, folder / "kept")
        shutil.rmtree(tiny / part)
        shutil.copytree(folder / "checkpoints/other" / part, tiny / part)
        if part == "latest":
            with pytest.raises(InputError, match="other settings made them, another run"):
                load_state(trained)
        else:
            with pytest.raises(InputError, match="other settings made them, another run"):
                evaluate.load_layers(trained)
            assert epoch_after_resuming(trained) == 3  # which puts its own best layers back
            evaluate.load_layers(trained)
        shutil.rmtree(tiny)
        (folder / "kept").rename(tiny)
    (tiny / "settings.json").unlink()
    with pytest.raises(InputError, match="other settings made them"):
        load_state(trained | {"learning_rate": 0.5})
    shutil.copytree(folder / "checkpoints/other", folder / "checkpoints/renamed")
    with pytest.raises(InputError, match="settings of run other, but the folder is renamed"):
        downscale.open_run("renamed")
    shutil.rmtree(tiny / "latest")
    with pytest.raises(InputError, match="no checkpoint to resume from, but best/ has a"):
        load_state(trained)


def test_older_weights_open_with_a_checksum_beside_them_and_no_others_do(folder):
    chosen = example_settings(filters=[4], kernels=[3, 3])
    layers, best = model.build_layers(chosen), folder / "checkpoints/tiny/best"
    path = checkpoints.Path(tf.train.Checkpoint(layers=layers).write(str(best / "ckpt-7")))
    with pytest.raises(InputError, match="other settings made them.*or an older version"):
        evaluate.load_layers(chosen)
    weights = files.hash_file(f"{path}{checkpoints.WEIGHTS}")
    beside = best / "ckpt-7.settings"
    beside.write_text(f"{hash_settings(chosen)} {weights}\n")
    evaluate.load_layers(chosen)
    beside.write_text(f"{hash_settings(chosen)} {'0' * 64}\n")
    with pytest.raises(InputError, match="other settings made them"):
        evaluate.load_layers(chosen)


@pytest.mark.parametrize("run", ["bedmachine_x4", "bedmachine_x8", "bedmachine_x16", "map"])
def test_runs_that_come_with_the_program_open(run, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert downscale.open_run(run)[0]["run"] == run


def test_later_epochs_than_those_resumed_from_are_removed(trained, folder):
    """After a restart from an earlier checkpoint the damaged one must not stay for good."""
    latest = folder / "checkpoints/tiny/latest"
    for epoch in (9, 5):
        state = load_state(trained)
        assert int(state["objects"]["epoch"]) == 3
        state["objects"]["epoch"].assign(epoch)
        state["history"] += [{"epoch": row, "seconds": 1.0 * row} for row in range(4, epoch + 1)]
        checkpoints.save_training_state(state["objects"], state["history"], trained)
        (latest / "ckpt-9.data-00000-of-00001").write_bytes(b"")
    assert [path.name for path in checkpoints.list_checkpoints(latest)] == ["ckpt-5", "ckpt-3"]


@pytest.mark.parametrize("moment", ["is_open_file", "tensorflow_path"])
def test_a_run_is_read_while_it_trains(trained, folder, monkeypatch, moment):
    """A training saves another epoch while its files are read (first) or restored (second): what
    is quoted is the checksum of the weights that were restored.
    """
    state, best = load_state(trained), folder / "checkpoints/tiny/best"
    module = files if moment == "is_open_file" else checkpoints
    original, sha256 = getattr(module, moment), {}

    def save_first(*args):
        monkeypatch.setattr(module, moment, original)
        sha256[3] = files.hash_file(best / "ckpt-3.data-00000-of-00001")
        state["objects"]["epoch"].assign(4)
        fill(state["objects"]["layers"], seed=4)
        train.copy_to_best_layers(state["objects"])
        state["history"].append({"epoch": 4, "seconds": 4.0})
        checkpoints.save_training_state(state["objects"], state["history"], trained)
        sha256[4] = files.hash_file(best / "ckpt-4.data-00000-of-00001")
        return original(*args)

    layers = model.build_layers(trained)
    weights = {3: model.list_weights(evaluate.load_layers(trained)[0])}
    monkeypatch.setattr(module, moment, save_first)
    checkpoint = checkpoints.restore_best({"layers": layers}, trained)
    weights[4] = model.list_weights(state["objects"]["layers"])
    assert checkpoint["epoch"] == (4 if moment == "is_open_file" else 3)
    assert checkpoint["weights_sha256"] == sha256[checkpoint["epoch"]] and sha256[3] != sha256[4]
    for weight, written in zip(model.list_weights(layers), weights[checkpoint["epoch"]],
                               strict=True):
        np.testing.assert_array_equal(weight, written)


# ---------------------------------------------------------------- settings, history


@pytest.mark.parametrize("content, said", [
    ([], r"\[\], expected a {...}"), (None, "null, expected a {...}"), ("text", '"text", expected'),
    ({"epochs": "3"}, 'epochs "3", expected a whole number'), ({"epochs": True}, "epochs true"),
    ({"filters": []}, r"filters \[\], expected a list"), ({"filters": [4, "a"]}, 'filters "a"'),
    ({"first_guess": "bed"}, 'first_guess "bed", expected one of'),
    ({"learning_rate": 1e999}, "learning_rate Infinity, expected a number"),
    ({"data": None}, "data null"), ({"data": {}}, "no data.source in it"),
    ({"uncertainty": {"slope": 1}}, "no uncertainty.intercept in it"),
    ({"patches": ""}, 'patches "", expected the path'),
    ({"versions": []}, r"versions \[\]"), ({"output_scale_m": "1"}, 'output_scale_m "1"')])
def test_settings_that_are_not_as_documented_are_named(trained, folder, content, said):
    whole = trained | content if isinstance(content, dict) else content
    (folder / "checkpoints/tiny/settings.json").write_text(json.dumps(whole))
    with pytest.raises(InputError, match=f"settings.json: .*{said}"):
        checkpoints.read_settings("tiny")


def test_differences_say_where_in_the_settings_they_are():
    old = {"seed": 0, "gone": 1, "same": [1, 2], "data": {"seed": 0, "source": "a.nc"}}
    new = {"seed": 0, "same": [1, 2], "data": {"seed": 1, "source": "a.nc"}, "new": None, "lr": 0.1}
    found = diff_settings(old, new)
    assert found == {"gone": (1, None), "data.seed": (0, 1), "lr": (None, 0.1)}
    assert format_differences(found) == "gone 1 -> None; data.seed 0 -> 1; lr None -> 0.1"
    assert diff_settings(old, old) == {}


def test_every_documented_setting_is_checked():
    for table in (SETTING_DESCRIPTIONS, PATCH_FILE_ATTRIBUTES):
        assert all(schema and meaning for schema, meaning in table.values())
    assert {key.removesuffix("?") for key in SETTINGS_SCHEMA} == set(SETTING_DESCRIPTIONS)


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"epoch,seconds\n1,1.0\n2,2",
                                     b"epoch,seconds\n1,1.0\n", b"epoch,seconds\n1,1.0\n3,3.0\n",
                                     b"epoch,seconds\n1,1.0\n2,x\n3,3.0\n", b"\xff\xfe"])
def test_a_damaged_history_is_named_before_anything_is_trained(trained, folder, content, capsys):
    path = folder / "checkpoints/tiny/history.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match="history.csv: damaged.*remove it"):
        load_state(trained)
    path.unlink()
    assert load_state(trained)["history"] == []
    assert "there is no curve of the training up to here" in capsys.readouterr().out


def test_versions_are_those_of_the_epochs_that_they_trained(folder, monkeypatch):
    """Upgrades after epochs 3 and 9; none where nothing is left to train; a damaged checkpoint."""
    settings = example_settings(epochs=20)
    for first, version, *expected in (
            (1, "2.1", "2.1", {}), (3, "2.1", "2.1", {}), (4, "2.2", "2.1", {"4": "2.2"}),
            (10, "2.3", "2.1", {"4": "2.2", "10": "2.3"}),
            (21, "2.4", "2.1", {"4": "2.2", "10": "2.3"}),
            (6, "2.3", "2.1", {"4": "2.2", "6": "2.3"}), (1, "2.3", "2.3", {})):
        monkeypatch.setattr(files, "package_versions", lambda now=version: {"tensorflow": now})
        checkpoints.write_training_settings(settings, first)
        written = checkpoints.read_settings("tiny")
        assert [written["versions"]["tensorflow"], {
            epoch: later["tensorflow"] for epoch, later
            in written.get("later_versions", {}).items()}] == expected


def test_restart_removes_what_the_program_made_and_nothing_else(trained, folder):
    kept = ["results/tiny/paper.pdf", "results/tiny/patches/mine.txt", "checkpoints/tiny/notes.md",
            "checkpoints/tiny/best/mine/ckpt-1.index"]
    made = ["results/tiny/metrics.json", "results/tiny/reconstruction_a_x4_0.json",
            "results/tiny/comparison.png", "results/tiny/patches/row01.png",
            "results/tiny/densities_910_1028/metrics.csv",
            "results/tiny/densities_910_1028/patches/row01.png"]
    for name in kept + made:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")
    checkpoints.delete_run("tiny")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                  if path.is_file()) == sorted(kept)
    for name in kept:
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints/tiny/best")
    (folder / "results/tiny/metrics.json").write_text("text")
    (folder / "results/tiny/densities_910_1028/patches").mkdir(parents=True)
    checkpoints.delete_run("tiny")
    assert not (folder / "results/tiny").exists() and not (folder / "checkpoints/tiny").exists()


# ---------------------------------------------------------------- power cuts, two at once


def test_files_and_folders_are_synced_before_names_are_switched(trained, folder, monkeypatch):
    """Every rename comes after an fsync of the file, and an fsync of the folder follows."""
    events, calls = [], {name: getattr(os, name) for name in ("fsync", "replace")}

    def fsync(opened):
        events.append(("sync", os.readlink(f"/proc/self/fd/{opened}")))
        calls["fsync"](opened)

    def replace(source, target):
        events.append(("rename", os.path.realpath(source), os.path.realpath(target)))
        calls["replace"](source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    save_all(trained, 4)
    checkpoints.write_settings(trained)
    renames = [at for at, event in enumerate(events) if event[0] == "rename"]
    assert len(renames) == 8  # history, settings; latest, best: weights, index, pointer
    for at in renames:
        assert events[at - 1] == ("sync", events[at][1])
        assert events[at + 1] == ("sync", os.path.dirname(events[at][2]))


def test_a_run_is_trained_by_one_process_at_a_time(folder, capsys):
    with checkpoints.lock_run("tiny"):
        for more in ([], ["--restart"]):
            status, said = run_main(train.main, ["--run", "tiny", "--scale", "4", "--synthetic",
                                                 *more], capsys)
            assert (status, said.count("\n")) == (2, 1) and "is being trained" in said
    assert not list(folder.iterdir())
    (folder / "checkpoints/tiny").mkdir(parents=True)
    (folder / "checkpoints/tiny/.lock").touch()  # of a process that was killed
    with checkpoints.lock_run("tiny"):
        pass


def test_a_lock_on_a_file_that_has_been_removed_is_none(folder, monkeypatch):
    """The process that trained removes its lock file between another's open and its lock."""
    lock_file = files.lock_file

    def remove_first(opened):
        monkeypatch.setattr(files, "lock_file", lock_file)
        (folder / "checkpoints/tiny/.lock").unlink()
        return lock_file(opened)

    monkeypatch.setattr(files, "lock_file", remove_first)
    with checkpoints.lock_run("tiny"), pytest.raises(InputError, match="is being trained"), \
            checkpoints.lock_run("tiny"):
        pass


def test_half_checkpoints_are_removed(trained, folder):
    best = folder / "checkpoints/tiny/best"
    (best / "ckpt-9.data-00000-of-00001").write_text("without an index")
    (best / "ckpt-of-mine").write_text("a user's")
    save_all(trained, 4)
    assert names_in(best) == ["checkpoint", "ckpt-4.data-00000-of-00001", "ckpt-4.index",
                              "ckpt-of-mine"]
