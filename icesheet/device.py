"""TensorFlow, imported quietly, and the one place that decides what it computes on.

Import TensorFlow from here: `from icesheet.device import tf`. What other programs' settings say
about Keras is overridden, so that the same code gives the same numbers on every machine.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

captured_stderr = []  # lines of TensorFlow's that capture_stderr kept off the screen


def has_nvidia_device():
    """Return whether the machine has an NVIDIA GPU, be it usable or not."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


@contextlib.contextmanager
def capture_stderr():
    """Keep what the block writes to file descriptor 2 in `captured_stderr`, off the screen.

    TensorFlow's C++ part prints a dozen lines on every machine without a GPU. set_up_device shows
    them where they matter. Python's exceptions still pass.
    """
    try:
        screen = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    try:
        kept = tempfile.TemporaryFile()  # noqa: SIM115
    except OSError:  # no folder for temporary files
        kept = open(os.devnull, "r+b")  # noqa: SIM115
    if sys.stderr is not None:
        sys.stderr.flush()
    with kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(screen, 2)
            os.close(screen)
            kept.seek(0)
            captured_stderr.extend(kept.read().decode(errors="replace").splitlines())


def exit_during_import(signum, frame):
    """Exit at once on Ctrl-C or a kill, which inside an import would print a page of traceback."""
    with contextlib.suppress(OSError):
        os.write(1, b"\nstopped\n")
    os._exit(130)


def prepare_environment():
    """Set the environment variables that TensorFlow and Keras read when they are imported."""
    os.environ.update({
        "KERAS_BACKEND": "tensorflow",
        "KERAS_HOME": os.devnull,    # no keras.json: it may ask for other float types or layouts
        "TF_USE_LEGACY_KERAS": "0"})
    # Warnings tell why a GPU is not used; without one they only repeat what Python raises.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if has_nvidia_device() else "2")
    # TensorFlow leaves these faster kernels off on processors without AVX-512.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        tempfile.gettempdir()
    except OSError:  # TensorFlow asks for its name when it is imported, and writes nothing there
        tempfile.tempdir = os.getcwd()


prepare_environment()
# Nothing is half-written yet, so a signal may end the process; afterwards signals do what they did.
_handlers = {signum: signal.signal(signum, exit_during_import)
             for signum in (signal.SIGINT, signal.SIGTERM)
             if threading.current_thread() is threading.main_thread()}
with capture_stderr():
    import tensorflow as tf
for _signum, _handler in _handlers.items():
    signal.signal(_signum, _handler)
tf.get_logger().setLevel("ERROR")  # many runs in one process are many graphs, which is no fault


def count_threads():
    """Return the number of threads to compute with: the user's wish, else one a usable core.

    TF_NUM_INTRAOP_THREADS counts before OMP_NUM_THREADS, which NumPy obeys too.
    """
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        wish = os.environ.get(name, "").split(",")[0].strip()
        if wish.isdecimal() and int(wish) > 0:
            return int(wish)
    if hasattr(os, "sched_getaffinity"):  # Linux: the cores that a scheduler gave this process
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_up_device():
    """Choose GPU or CPU, and all that decides its numbers; return what was chosen.

    Every program that computes with TensorFlow calls this before anything else. A GPU is used if
    there is one, its memory as needed. Kernels are deterministic: the same seed, machine, number of
    threads and library versions give the same numbers.
    Returns {name: for the screen, is_gpu: bool, n_threads: threads on the CPU}. Where the machine
    has a GPU that TensorFlow cannot use, what TensorFlow said about it is printed, and what to do.
    """
    n_threads = count_threads()
    with capture_stderr():
        gpus = tf.config.list_physical_devices("GPU")
    if not gpus and has_nvidia_device() and os.environ.get("CUDA_VISIBLE_DEVICES") not in (
            "", "-1"):
        print("note: TensorFlow cannot use the GPU of this machine:\n  "
              + "\n  ".join(dict.fromkeys(captured_stderr))
              + "\n  pip install 'tensorflow[and-cuda]' brings the CUDA libraries that it needs")
    with contextlib.suppress(RuntimeError):  # it computes already: too late, and set before
        tf.config.threading.set_intra_op_parallelism_threads(n_threads)
        tf.config.threading.set_inter_op_parallelism_threads(n_threads)
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    # TF32 rounds the products of float32 to 10 bits on NVIDIA GPUs from Ampere on. The sums that
    # keep the ice of a coarse cell are then wrong by metres in place of millimetres.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.experimental.enable_op_determinism()
    return {"name": gpus[0].name if gpus else "CPU", "is_gpu": bool(gpus),
            "n_threads": tf.config.threading.get_intra_op_parallelism_threads() or n_threads}


def compile_with_xla(step, epoch_inputs, batch_size, variables):
    """Return a training step compiled by XLA, or the step itself if that fails; nothing is trained.

    step: a tf.function; epoch_inputs: its arguments for a whole epoch, lists of (patch, y, x)
    variables: what the step changes, set back after trying it
    """
    compiled = tf.function(step.python_function, jit_compile=True)
    values = [variable.numpy() for variable in variables]
    # A whole batch and the last one if it is smaller: every shape is compiled by itself.
    rest = len(epoch_inputs[0][0]) % batch_size
    try:
        for part in [slice(0, batch_size)] + [slice(-rest, None)] * (rest > 0):
            compiled(*([tf.constant(level[part]) for level in field] for field in epoch_inputs))
    except (tf.errors.OpError, ValueError, TypeError) as error:
        print("note: XLA cannot compile the training step; training goes on without it "
              f"({' '.join(str(error).split())[:200]})")
        return step
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    print("training step compiled by XLA")
    return compiled
