"""PyTorch: a state dict for an `nn.Sequential`; torch is imported only if torch tensors are requested.

A two-layer approximator fits

    torch.nn.Sequential(
        torch.nn.Linear(stimulus_size, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, rate_size),
        torch.nn.ReLU(),  # where the rates are rectified
    )
"""

from pathlib import Path

import numpy as np

from rnn2ff._checks import fail, require_extra
from rnn2ff.approximators import Approximator
from rnn2ff.export.plain import plain_arrays
from rnn2ff.files import tensors_content, write_whole


def to_torch_state_dict(approximator: Approximator, *, as_tensors: bool = False) -> dict[str, object]:
    """The weights under the names of `nn.Sequential(Linear, ReLU, Linear, ReLU)`, in float32.

    Args:
        approximator: a two-layer approximator without a bypass.
        as_tensors: whether the values are torch tensors, for which torch is imported; otherwise numpy arrays.

    Raises:
        ValueError: if the approximator has a bypass or sweeps, which a sequence of layers cannot hold.
        ModuleNotFoundError: if tensors are requested and torch is not installed.
    """
    plain = plain_arrays(approximator)
    if plain.bypass_weights is not None or plain.sweeps is not None:
        received = "a bypass" if plain.sweeps is None else "sweeps"
        raise fail("approximator", "does not fit a sequence of layers", "two layers only", received)
    arrays = {
        "0.weight": plain.hidden_weights,
        "0.bias": plain.hidden_bias,
        "2.weight": plain.readout_weights,
        "2.bias": plain.readout_bias,
    }
    if not as_tensors:
        return arrays
    require_extra("peers", "torch")
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def write_torch(path: str | Path, approximator: Approximator) -> None:
    """Write the state dict as a safetensors file, for `safetensors.torch.load_file`, completely or not at all."""
    write_whole(path, tensors_content(to_torch_state_dict(approximator), {"format": "pt"}))
