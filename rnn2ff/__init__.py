"""Feed-forward networks that stand in for the steady states of recurrent ones."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Each public name and the module that defines it. Loaded on first use, so that `rnn2ff --help` does not wait for JAX
# and a deployed approximator does not load a solver.
_HOME = {
    "AbstractSteadyStateSolver": "steady_state",
    "ActiveSet": "steady_state",
    "Anderson": "steady_state",
    "AndersonAcceleration": "steady_state",
    "Certificate": "certificates",
    "Certifier": "certifier",
    "Plan": "steady_state",
    "PowerLaw": "networks",
    "RateForm": "networks",
    "RecurrentNetwork": "networks",
    "Refined": "approximators",
    "Rollout": "steady_state",
    "RootFind": "steady_state",
    "Served": "serving",
    "Source": "serving",
    "StateForm": "networks",
    "Status": "steady_state",
    "SteadyState": "steady_state",
    "SteadyStates": "steady_state",
    "Theorem": "certificates",
    "TwoLayer": "approximators",
    "Unrolled": "approximators",
    "accuracy": "evaluation",
    "add": "stimuli",
    "best_sweep": "sweeps",
    "bound_error": "certificates",
    "bump_stimuli": "stimuli",
    "certify": "certificates",
    "certify_predictions": "serving",
    "competition": "evaluation",
    "concatenate": "stimuli",
    "count_statuses": "steady_state",
    "ctln": "networks",
    "damped_sweep": "sweeps",
    "discrete_map": "networks",
    "distill": "distillation",
    "exact_pairs": "mixing",
    "find_fixed_points": "fixed_points",
    "find_symmetries": "symmetries",
    "fit_readout": "initialization",
    "from_connectome": "networks",
    "from_files": "networks",
    "from_torch": "networks",
    "gaussian_stimuli": "stimuli",
    "grating_stimulus": "networks",
    "hopfield": "networks",
    "information_transformation": "evaluation",
    "initialize_refined": "initialization",
    "initialize_two_layer": "initialization",
    "linearize": "stability",
    "load": "export",
    "load_stablehlo": "export",
    "make_certifier": "certifier",
    "mean_jacobian_sweep": "sweeps",
    "mean_slope_sweep": "sweeps",
    "mix_pairs": "mixing",
    "mixture": "stimuli",
    "model_card": "export",
    "motion_stimulus": "networks",
    "noise_rejection": "evaluation",
    "open_steady_states": "storage",
    "partition_competition": "networks",
    "partition_means": "networks",
    "plan_steady_states": "steady_state",
    "population_angle": "networks",
    "predict_all_units": "serving",
    "predict_or_solve": "serving",
    "quantize": "export",
    "quantize_onnx": "export",
    "random_excitatory_inhibitory": "networks",
    "random_rate_network": "networks",
    "random_threshold_linear": "networks",
    "rate_network": "networks",
    "refine": "refinement",
    "relation_angles": "networks",
    "relation_network": "networks",
    "relation_stimulus": "networks",
    "residual": "networks",
    "ring_angles": "networks",
    "ring_attractor": "networks",
    "ring_bump": "networks",
    "ring_stimulus": "networks",
    "sample_from": "stimuli",
    "save": "export",
    "smooth_stimuli": "stimuli",
    "solve_batch": "steady_state",
    "solve_steady_state": "steady_state",
    "solve_steady_states": "steady_state",
    "sparse_stimuli": "stimuli",
    "split_sweep": "sweeps",
    "stability_constants": "stability",
    "stabilized_supralinear": "networks",
    "stabilized_supralinear_pair": "networks",
    "steady_tangents": "losses",
    "store_steady_states": "storage",
    "stream_steady_states": "datasets",
    "threshold_linear": "networks",
    "threshold_linear_rate": "networks",
    "to_c": "export",
    "to_onnx": "export",
    "to_stablehlo": "export",
    "to_torch_state_dict": "export",
    "train": "training",
    "uniform_stimuli": "stimuli",
    "wilson_cowan": "networks",
    "winner_take_all": "networks",
    "wong_wang": "networks",
    "write_nir": "export",
    "write_page": "export",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from rnn2ff.approximators import Refined, TwoLayer, Unrolled
    from rnn2ff.certificates import Certificate, Theorem, bound_error, certify
    from rnn2ff.certifier import Certifier, make_certifier
    from rnn2ff.datasets import stream_steady_states
    from rnn2ff.distillation import distill
    from rnn2ff.evaluation import accuracy, competition, information_transformation, noise_rejection
    from rnn2ff.export import (
        load,
        load_stablehlo,
        model_card,
        quantize,
        quantize_onnx,
        save,
        to_c,
        to_onnx,
        to_stablehlo,
        to_torch_state_dict,
        write_nir,
        write_page,
    )
    from rnn2ff.fixed_points import find_fixed_points
    from rnn2ff.initialization import fit_readout, initialize_refined, initialize_two_layer
    from rnn2ff.losses import steady_tangents
    from rnn2ff.mixing import exact_pairs, mix_pairs
    from rnn2ff.networks import (
        PowerLaw,
        RateForm,
        RecurrentNetwork,
        StateForm,
        ctln,
        discrete_map,
        from_connectome,
        from_files,
        from_torch,
        grating_stimulus,
        hopfield,
        motion_stimulus,
        partition_competition,
        partition_means,
        population_angle,
        random_excitatory_inhibitory,
        random_rate_network,
        random_threshold_linear,
        rate_network,
        relation_angles,
        relation_network,
        relation_stimulus,
        residual,
        ring_angles,
        ring_attractor,
        ring_bump,
        ring_stimulus,
        stabilized_supralinear,
        stabilized_supralinear_pair,
        threshold_linear,
        threshold_linear_rate,
        wilson_cowan,
        winner_take_all,
        wong_wang,
    )
    from rnn2ff.refinement import refine
    from rnn2ff.serving import (
        Served,
        Source,
        certify_predictions,
        predict_all_units,
        predict_or_solve,
    )
    from rnn2ff.stability import linearize, stability_constants
    from rnn2ff.steady_state import (
        AbstractSteadyStateSolver,
        ActiveSet,
        Anderson,
        AndersonAcceleration,
        Plan,
        Rollout,
        RootFind,
        Status,
        SteadyState,
        SteadyStates,
        count_statuses,
        plan_steady_states,
        solve_batch,
        solve_steady_state,
        solve_steady_states,
    )
    from rnn2ff.stimuli import (
        add,
        bump_stimuli,
        concatenate,
        gaussian_stimuli,
        mixture,
        sample_from,
        smooth_stimuli,
        sparse_stimuli,
        uniform_stimuli,
    )
    from rnn2ff.storage import open_steady_states, store_steady_states
    from rnn2ff.sweeps import best_sweep, damped_sweep, mean_jacobian_sweep, mean_slope_sweep, split_sweep
    from rnn2ff.symmetries import find_symmetries
    from rnn2ff.training import train


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module `rnn2ff` has no attribute {name!r}")
    return getattr(importlib.import_module(f"rnn2ff.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
