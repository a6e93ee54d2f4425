"""Feed-forward networks that stand in for the steady states of recurrent ones."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnn2ff import plotting
    from rnn2ff.analysis import *
    from rnn2ff.approximators import Refined as Refined
    from rnn2ff.approximators import TwoLayer as TwoLayer
    from rnn2ff.certificates import *
    from rnn2ff.data import *
    from rnn2ff.export import *
    from rnn2ff.networks import *
    from rnn2ff.steady_state import *
    from rnn2ff.training import *

__version__ = "0.2.0"

# The public names of each package. Loaded on first use, so that `rnn2ff --help` does not wait for JAX and a deployed
# approximator does not load a solver; so are the packages themselves, and `rnn2ff.plotting`.
_NAMES = {
    "analysis": ["find_fixed_points", "linearize"],
    "approximators": ["Refined", "TwoLayer"],
    "certificates": [
        "Certificate",
        "Certifier",
        "Served",
        "Source",
        "Theorem",
        "bound_error",
        "bound_units",
        "certify",
        "certify_predictions",
        "make_certifier",
        "predict_all_units",
        "predict_or_solve",
        "refine",
    ],
    "data": [
        "add",
        "bump_stimuli",
        "concatenate",
        "gaussian_stimuli",
        "mixture",
        "open_steady_states",
        "sample_from",
        "smooth_stimuli",
        "sparse_stimuli",
        "store_steady_states",
        "stream_steady_states",
        "uniform_stimuli",
    ],
    "export": [
        "bound_to_c",
        "load",
        "load_stablehlo",
        "model_card",
        "quantize",
        "quantize_onnx",
        "save",
        "to_c",
        "to_onnx",
        "to_stablehlo",
        "to_torch_state_dict",
        "write_mat",
        "write_nir",
        "write_page",
        "write_report",
    ],
    "networks": [
        "PowerLaw",
        "RateForm",
        "RateNetwork",
        "RecurrentNetwork",
        "Saturating",
        "StateForm",
        "best_sweep",
        "ctln",
        "damped_sweep",
        "discrete_map",
        "from_connectome",
        "from_equinox",
        "from_files",
        "from_flax",
        "from_keras",
        "from_torch",
        "grating_stimulus",
        "hopfield",
        "in_continuous_time",
        "low_rank_weights",
        "mean_jacobian_sweep",
        "mean_slope_sweep",
        "motion_stimulus",
        "partition_competition",
        "partition_means",
        "population_angle",
        "random_excitatory_inhibitory",
        "random_rate_network",
        "random_threshold_linear",
        "rate_network",
        "read_connectome",
        "relation_angles",
        "relation_network",
        "relation_stimulus",
        "residual",
        "ring_angles",
        "ring_attractor",
        "ring_bump",
        "ring_stimulus",
        "split_sweep",
        "stability_constants",
        "stabilized_supralinear",
        "stabilized_supralinear_pair",
        "threshold_linear",
        "threshold_linear_rate",
        "wilson_cowan",
        "winner_take_all",
        "wong_wang",
    ],
    "steady_state": [
        "AbstractSteadyStateSolver",
        "ActiveSet",
        "Anderson",
        "AndersonAcceleration",
        "Plan",
        "Rollout",
        "RootFind",
        "Status",
        "SteadyState",
        "SteadyStates",
        "Trajectory",
        "count_statuses",
        "plan_steady_states",
        "simulate",
        "solve_batch",
        "solve_steady_state",
        "solve_steady_states",
    ],
    "training": [
        "accuracy",
        "competition",
        "distill",
        "exact_pairs",
        "find_jumps",
        "find_symmetries",
        "fit_readout",
        "information_transformation",
        "initialize_refined",
        "initialize_two_layer",
        "mix_pairs",
        "noise_rejection",
        "train",
    ],
}
_HOME = {name: package for package, names in _NAMES.items() for name in names}
_MODULES = {*_NAMES, "plotting"}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"rnn2ff.{name}")
    if name not in _HOME:
        raise AttributeError(f"module `rnn2ff` has no attribute {name!r}")
    return getattr(importlib.import_module(f"rnn2ff.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *(name for name in globals() if name.startswith("__"))})
