"""MATLAB: the matrices of an approximator in a `.mat` file, to be multiplied there."""

from pathlib import Path

import numpy as np

from rnn2ff.approximators import Approximator
from rnn2ff.export.plain import arrays_of, plain_arrays
from rnn2ff.files import write_arrays

# With stimuli u in columns, in MATLAB:
#
#     h = max(hidden_weights * u + hidden_bias, 0);
#     x = readout_weights * h + readout_bias;                         % + bypass_weights * u, where there are any
#     d = drive_weights * u + drive_bias;  x = x + d;  before = x;    % the rest where there are sweeps
#     for k = 1:size(steps, 2)
#         target = d + recurrent_weights * (max(x, 0) - slopes .* x);
#         next = x + steps(:, k) .* (target - x) + momenta(:, k) .* (x - before);
#         before = x;  x = next;
#     end
#     r = max(x, 0);                                                  % where is_rectified
#     r = r(1:rate_size, :);


def write_mat(path: str | Path, approximator: Approximator) -> None:
    """Write the matrices in float32, completely or not at all; vectors are columns, sweeps columns of `steps`.

    Raises:
        ValueError: if the approximator is not `TwoLayer` or `Refined`, its sweeps are not those of a threshold-linear
            network, or the folder cannot be written to.
    """
    plain = plain_arrays(approximator)
    matrices = {name: array[:, None] if array.ndim == 1 else array for name, array in arrays_of(plain)}
    for name in matrices.keys() & {"steps", "momenta"}:
        matrices[name] = matrices[name].T
    flags = {"is_rectified": np.array([[float(plain.is_rectified)]]), "rate_size": np.array([[float(plain.rate_size)]])}
    write_arrays(path, matrices | flags)
