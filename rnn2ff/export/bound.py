"""The certificate in C: a function that bounds, at run time, how far predicted rates are from the steady ones.

The theorems are those of contraction and of monotonicity in `docs/certificates.md`, which hold everywhere; rounding is
that of double precision. The header is the template beside this module, filled in.
"""

import numpy as np

from rnn2ff import __version__
from rnn2ff._checks import check_on_host, fail
from rnn2ff.export.c import array_definition, check_name
from rnn2ff.export.plain import template
from rnn2ff.networks import RecurrentNetwork, is_threshold_linear, network_hash, stability_constants

_ABOVE = 1 + 1e-12  # rounds a quotient in double precision up, by far more than its 1e-16


def bound_to_c(network: RecurrentNetwork, *, name: str = "rnn2ff_bound") -> str:
    """A C99 header with one function, `double NAME(const float *stimulus, const float *rates)`.

    It returns a proved bound of the Euclidean distance of the rates of all units to the only fixed point, whatever the
    approximator that predicted them, in floats or in integers.

    Args:
        network: a threshold-linear network in float32, that contracts or is monotone in a diagonal metric.
        name: the name of the function, and prefix of every name in the header.

    Raises:
        ValueError: if `name` is not the name of a C function, the network is of another kind, or has no bound that
            holds everywhere; the message says why.
    """
    from rnn2ff.certificates import make_certifier

    check_on_host("bound_to_c", "call it outside", network)
    check_name(name)
    if not is_threshold_linear(network) or network.dtype != np.float32:
        received = f"{network.vector_field} in {network.dtype.name}"
        raise fail("network", "cannot be certified in C", "a threshold-linear network in float32", received)
    certifier = make_certifier(network)
    if not certifier.has_global_bound:
        expected, reason = "one fixed point, by these theorems", stability_constants(network).reason
        raise fail("network", "has no bound that holds everywhere", expected, reason)
    scale, root = (np.asarray(scales, np.float64) for scales in (certifier.contraction_scale, certifier.metric_root))
    gap, modulus = float(certifier.contraction_gap), float(certifier.monotonicity)
    params, stimulus_weights = network.params, network.params.stimulus_weights
    arrays = {
        "recurrent_weights": network.dense_weights,
        **({} if stimulus_weights is None else {"stimulus_weights": stimulus_weights}),
        "bias": params.bias,
        "contraction_scale": certifier.contraction_scale,
        "metric_root": certifier.metric_root,
    }
    arrays = {label: np.asarray(array, np.float32) for label, array in arrays.items()}
    fields = {
        "name": name,
        "NAME": name.upper(),
        "version": __version__,
        "hash": network_hash(network),
        "stimulus_size": network.stimulus_size,
        "state_size": network.state_size,
        "has_stimulus_weights": int(stimulus_weights is not None),
        "flash_bytes": sum(array.nbytes for array in arrays.values()),
        "arrays": "\n".join(array_definition(f"{name}_{label}", array) for label, array in arrays.items()),
        "is_contracting": int(certifier.is_contracting),
        "is_monotone": int(certifier.is_monotone),
        "contraction_factor": repr(float(_ABOVE * np.linalg.norm(scale) / gap)) if certifier.is_contracting else "0.0",
        "monotonicity_factor": repr(float(_ABOVE / (modulus * root.min()))) if certifier.is_monotone else "0.0",
    }
    return template("bound.h").substitute(fields)
