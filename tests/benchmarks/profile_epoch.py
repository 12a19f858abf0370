"""Print which operations an epoch of training spends its time on, by TensorFlow's own profiler.

    python tests/benchmarks/profile_epoch.py          # about a minute

The networks and fields are those of benchmark_training.py. Every operation, summed by its kind over
one epoch: how often, seconds, share. An operation is one entry, however many threads work on it.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (0, 2)]  # benchmarks, the scripts

import benchmark_training as benchmark
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import model
import train
from icesheet import command_line
from icesheet.device import tf

SHOWN = 14  # kinds of operations


def seconds_by_kind(folder):
    """Return {kind: (times, seconds)} of the operations in the traces of a folder."""
    found = {}
    for path in Path(folder).rglob("*.xplane.pb"):
        space = xplane_pb2.XSpace()
        space.ParseFromString(path.read_bytes())
        for plane in space.planes:
            for line in plane.lines:
                for event in line.events:
                    name = plane.event_metadata[event.metadata_id].name  # "node:Kind"
                    node, _, kind = name.rpartition(":")
                    if node and not node.endswith(":") and "__" not in kind:
                        n, seconds = found.get(kind, (0, 0.0))
                        found[kind] = n + 1, seconds + event.duration_ps / 1e12
    return found


def main():
    benchmark.start_device()
    networks = benchmark.make_networks()
    fields = benchmark.make_fields(networks)
    for name, settings in networks.items():
        layers = model.build_layers(settings)
        optimizer = tf.keras.optimizers.Adam(1e-3)
        optimizer.build(model.list_weights(layers))
        step = train.make_train_step(layers, optimizer, settings)
        epoch = train.compile_epoch(step, layers, settings)
        arguments = [[tf.constant(level) for level in field] for field in fields[name]]
        epoch(*arguments)  # compiled, not counted
        with tempfile.TemporaryDirectory() as folder:
            tf.profiler.experimental.start(folder)
            start = time.perf_counter()
            epoch(*arguments)
            took = time.perf_counter() - start
            tf.profiler.experimental.stop()
            kinds = sorted(seconds_by_kind(folder).items(), key=lambda item: -item[1][1])
        total = sum(seconds for _, (_, seconds) in kinds)
        print(f"\n{name}: an epoch of {took:.2f} s while profiled; {total:.2f} s of operations")
        command_line.print_table([("operation", "times", "seconds", "share")] + [
            (kind, str(n), f"{seconds:.3f}", f"{seconds / total:.0%}")
            for kind, (n, seconds) in kinds[:SHOWN]])


if __name__ == "__main__":
    command_line.run_script(main)
