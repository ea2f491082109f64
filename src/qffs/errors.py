"""The errors that `qffs` raises on purpose, as one tree.

    QffsError
    ├── InvalidArgument      a value that can never work: 9 bits, fewer steps than charge steps
    ├── NotTraceable         the model cannot be read as a static graph
    ├── NotConvertible       the graph holds an operator that has no spiking counterpart
    │   └── NothingToQuantize    no ReLU on the way from the input: quantizing would change nothing
    ├── NotCalibrated        a quantizer has no step size yet
    ├── Mismatch             a spiking network that differs from its quantized network
    ├── DataError            images or labels that cannot be read or used
    ├── CheckpointError      a checkpoint or weight file that cannot be read or does not fit
    ├── Diverged             NaN or infinity in the loss or in the data
    └── Stopped              a signal stopped the run, which is saved and can be continued

Each message is one sentence a user can act on. The command line prints it and exits with code 2; with code 0
after SIGTERM, which is no fault.

`Inaccurate` is the category of warnings of a result that is no good, with the one thing to try next.
"""

from __future__ import annotations

from signal import Signals


class QffsError(Exception):
    """The base class of every error that this library raises on purpose.

    Its message is one sentence that says what is wrong and what to do. Catch `QffsError` to catch all of them. Some
    are an error of Python too, such as `ValueError`.

    >>> try:
    ...     qffs.Levels.from_bits(9)
    ... except qffs.QffsError as error:
    ...     print(error)
    bits must be a whole number from 1 to 8, not 9
    """


class InvalidArgument(QffsError, ValueError):
    """A value that can never work, such as 9 bits or fewer steps than charge steps; also a `ValueError`.

    Every public function can raise it. The message names the argument and says which values are possible.

    >>> qffs.FiringRule(decay=-1)
    Traceback (most recent call last):
    qffs.errors.InvalidArgument: the decay must be a number of at least 0, not -1
    """


class NotTraceable(QffsError):
    """A model that cannot be read as a static graph.

    `qffs.plan` and `qffs.quantize` raise it where the model's Python code depends on the values of a tensor, draws
    random numbers, computes something else than its graph, or has other gradients. The message names the cause and the
    line of the model's code where one is at fault. Change that line, or add the module or function with
    `qffs.register`, which keeps it as one operator.

    >>> class Branch(torch.nn.Module):
    ...     def forward(self, x: torch.Tensor) -> torch.Tensor:
    ...         return x.relu() if x.sum() > 0 else x
    >>> try:
    ...     qffs.plan(Branch(), torch.ones(1, 4))
    ... except qffs.NotTraceable as error:
    ...     print(str(error)[:69])
    Branch cannot be read as a static graph: its code depends on the data
    """


class NotConvertible(QffsError):
    """A model with operators that have no spiking counterpart.

    `qffs.quantize` raises it, and changes nothing; so does `qffs.to_spiking`, where a layer was replaced by such an
    operator. The message lists each such operator with its path, its line and the reason; with ``strict=True`` also the
    operators that send values. `qffs.plan` shows the same and does not raise.

    >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Hardshrink())
    >>> try:
    ...     qffs.quantize(model, example=torch.ones(1, 4))
    ... except qffs.NotConvertible as error:
    ...     print(str(error)[:59])
    this network cannot be converted: Hardshrink at 1: it jumps
    """


class NothingToQuantize(NotConvertible):
    """A model without a ReLU on the way from its input, or with ``"full"`` for every activation.

    `qffs.quantize` raises it, because nothing would be quantized: a quantizer, and later a neuron, takes the place of
    a ReLU.
    """


class NotCalibrated(QffsError, RuntimeError):
    """A quantizer without a step size; also a `RuntimeError`.

    A quantized network in eval mode, `qffs.to_spiking` and `qffs.verify` raise it. Call `qffs.calibrate`, train the
    network, or load trained weights first.
    """


class Mismatch(QffsError, AssertionError):
    """A spiking network that differs from its quantized network; also an `AssertionError`.

    `qffs.verify` raises it. The message names the first layer that differs, by how much, and in how many neurons.
    """


class DataError(QffsError):
    """Images or labels that cannot be read or used.

    Reading a data set raises it; the message names the file or folder.
    """


class CheckpointError(QffsError):
    """A checkpoint or weight file that cannot be read or written, or does not fit the network.

    `qffs.load` and `qffs.save` raise it; the message names the file and what is wrong with it.
    """


class Diverged(QffsError, ArithmeticError):
    """NaN or infinity in the loss, in the weights or in the data; also an `ArithmeticError`.

    `qffs.quantize`, `qffs.calibrate`, `qffs.to_spiking`, exports and training raise it. Check the data, or continue
    from the last good weights.
    """


class Stopped(QffsError):
    """A run that a signal such as SIGTERM has stopped. Its state is saved, so that it can be continued.

    ``signal``: the signal, a `signal.Signals`.
    """

    def __init__(self, signal: Signals, message: str) -> None:
        super().__init__(message)
        self.signal = signal

    def __reduce__(self) -> tuple[type[Stopped], tuple[Signals, str]]:
        """Return how to build the error again: pickled, it passes from one process to another."""
        return Stopped, (self.signal, str(self))


class Inaccurate(UserWarning):
    """The category of a warning that a quantized network is far from the network in full precision.

    `qffs.reconstruct` gives it. The message says what to try next.

    >>> import warnings
    >>> warnings.simplefilter("ignore", qffs.errors.Inaccurate)
    """
