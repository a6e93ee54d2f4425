"""What is typed in the first hour: keys, batches, tracers, prints, files, each answered in a sentence."""

import base64
import copy
import enum
import inspect
import pickle
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.sparse
from arrays import floats
from problems import assert_close

import rnn2ff
from rnn2ff.analysis import Audit, FixedPoints
from rnn2ff.export import familiarity, stated_error
from rnn2ff.networks import RATE_FORM, Connectome, StateForm, network_hash
from rnn2ff.training import TrainingRun
from rnn2ff.training.distillation import SAME_DISTRIBUTION
from rnn2ff.training.result import Distillation, Report
from rnn2ff.training.trainer import Attempt

WEIGHTS = np.array([[0.2, -0.5], [-0.3, 0.1]])
STIMULI = np.random.default_rng(0).uniform(1, 1.5, size=(6, 2))
NETWORK = rnn2ff.threshold_linear(WEIGHTS)
SOLUTION = np.linalg.solve(np.eye(2) - WEIGHTS, STIMULI.T).T  # both units are active


SOLVED = rnn2ff.SteadyState(
    state=floats(SOLUTION),
    status=jax.device_put(np.array([0, 0, 0, 0, 0, 2], np.int32)),
    residual=floats(np.full(6, 1e-6)),
    num_steps=jax.device_put(np.arange(6, dtype=np.int32)),
    distance=floats(np.zeros(6)),
    period=floats(np.zeros(6)),
)


def approximator():
    return rnn2ff.TwoLayer(2, 3, 2, key=jr.key(0))


# --- inside programs --------------------------------------------------------------------------------------------------

ON_THE_HOST = {
    "solve_steady_states": lambda u: rnn2ff.solve_steady_states(NETWORK, u).state,
    "plan_steady_states": lambda u: rnn2ff.plan_steady_states(NETWORK, u),
    "predict_or_solve": lambda u: rnn2ff.predict_or_solve(NETWORK, approximator(), u, tolerance=0.1).rates,
    "predict_all_units": lambda u: rnn2ff.predict_all_units(NETWORK, approximator(), u),
    "certify_predictions": lambda u: rnn2ff.certify_predictions(NETWORK, u, STIMULI).error_bound,
    "make_certifier": lambda u: rnn2ff.make_certifier(rnn2ff.threshold_linear(u[:2])).slope,
    "stability_constants": lambda u: rnn2ff.stability_constants(rnn2ff.threshold_linear(u[:2])).contraction,
    "the comparison of rates": lambda u: rnn2ff.accuracy(u, STIMULI).nrmse,
    "train": lambda u: rnn2ff.train(approximator(), u, u, key=jr.key(0)).approximator,
    "find_fixed_points": lambda u: rnn2ff.find_fixed_points(NETWORK, u[0], key=jr.key(0)).states,
    "linearize": lambda u: rnn2ff.linearize(NETWORK, u[0], u[0]).eigenvalues,
    "find_symmetries": lambda u: rnn2ff.find_symmetries(NETWORK, u),
    "the start of a training": lambda u: rnn2ff.initialize_two_layer(NETWORK, u, u, 4, key=jr.key(0)),
    "network_hash": lambda u: len(network_hash(rnn2ff.threshold_linear(u[:2]))),
    "an export": lambda u: rnn2ff.to_c(eqx.tree_at(lambda each: each.readout_bias, approximator(), u[0])),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", ON_THE_HOST)
@pytest.mark.parametrize("transform", [jax.jit, lambda f: jax.vmap(f, axis_size=1, in_axes=None), jax.jacfwd])
def test_a_function_of_the_host_says_inside_a_program_what_to_use_instead(name, transform):
    stimuli = jnp.asarray(STIMULI)
    if transform not in (jax.jit, jax.jacfwd):
        transform, stimuli = jax.vmap, stimuli[None]
    with pytest.raises(ValueError, match=f"`{name}` runs on the host. Expected known values; inside `jit`, .*, got"):
        transform(ON_THE_HOST[name])(stimuli)


def test_certify_without_a_certifier_works_inside_a_program_where_the_network_is_known():
    bounds = jax.jit(jax.vmap(lambda u: rnn2ff.certify(NETWORK, u, u).error_bound))(jnp.asarray(STIMULI))
    expected = rnn2ff.certify_predictions(NETWORK, STIMULI, STIMULI).error_bound
    assert_close(bounds, expected, 1e-5)
    assert (np.asarray(bounds) >= np.linalg.norm(STIMULI - SOLUTION, axis=1)).all()


# --- keys and batches -------------------------------------------------------------------------------------------------

WITH_A_KEY = {
    "distill": lambda key: rnn2ff.distill(NETWORK, STIMULI, key=key),
    "TwoLayer": lambda key: rnn2ff.TwoLayer(2, 3, 2, key=key),
    "random_threshold_linear": lambda key: rnn2ff.random_threshold_linear(3, key=key),
    "random_excitatory_inhibitory": lambda key: rnn2ff.random_excitatory_inhibitory(3, 1, key=key),
    "random_rate_network": lambda key: rnn2ff.random_rate_network(3, key=key),
    "stream": lambda key: next(rnn2ff.stream_steady_states(NETWORK, rnn2ff.uniform_stimuli(2), key=key)),
    "train": lambda key: rnn2ff.train(approximator(), jnp.asarray(STIMULI), jnp.asarray(SOLUTION), key=key),
    "find_fixed_points": lambda key: rnn2ff.find_fixed_points(NETWORK, STIMULI[0], key=key),
    "initialize": lambda key: rnn2ff.initialize_two_layer(NETWORK, SOLUTION, STIMULI, 4, key=key),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", WITH_A_KEY)
@pytest.mark.parametrize("seed", [0, np.random.default_rng(0), np.zeros(3)])
def test_a_seed_instead_of_a_key_is_refused_with_an_example(name, seed):
    with pytest.raises(ValueError, match=r"`key` is not a PRNG key. Expected one such as `jax.random.key\(0\)`, got "):
        WITH_A_KEY[name](seed)


@pytest.mark.usefixtures("as_a_user")
def test_keys_of_both_kinds_are_taken():
    for key in (jr.key(0), jr.PRNGKey(0)):
        assert rnn2ff.random_threshold_linear(3, key=key).state_size == 3


def test_a_sampler_that_ignores_its_key_is_refused():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="`sample_stimulus` ignores its key.*the same stimulus for every key"):
        rnn2ff.distill(NETWORK, lambda key: jnp.asarray(generator.normal(size=2)), num_samples=10, key=jr.key(0))


def test_a_sampler_that_uses_its_key_and_draws_the_same_by_chance_is_not():
    sample = rnn2ff.sparse_stimuli(rnn2ff.uniform_stimuli(2), active_share=1e-6)
    assert not np.asarray(rnn2ff.data.sample_stimuli(sample, 3, key=jr.key(0))).any()


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("kind", ["two layers", "refined"])
def test_a_batch_given_to_an_approximator_of_one_stimulus_is_refused_with_a_hint_at_vmap(kind):
    two_layer = rnn2ff.TwoLayer(2, 3, 2, is_rectified=False, key=jr.key(0))
    made = {
        "two layers": lambda: two_layer,
        "refined": lambda: rnn2ff.Refined(two_layer, NETWORK, rnn2ff.split_sweep(NETWORK), num_sweeps=1),
    }[kind]()
    with pytest.raises(ValueError, match=r"`stimulus` is not one stimulus.*`jax.vmap\(approximator\)\(stimuli\)`, got"):
        made(STIMULI)
    with pytest.raises(ValueError, match=r"`stimulus` has the wrong shape. Expected \(2,\), got \(3,\)"):
        made(np.ones(3))
    assert jax.vmap(made)(jnp.asarray(STIMULI)).shape == (6, 2)


@pytest.mark.usefixtures("as_a_user")
def test_weights_in_the_place_of_the_form_are_told_from_it():
    for form in (WEIGHTS, "tanh", jnp.tanh):
        with pytest.raises(
            ValueError, match=r"`form` is not a form. Expected `StateForm\(phi\)` or `RateForm\(phi\)`,"
        ):
            rnn2ff.rate_network(form, WEIGHTS)


# --- copies and files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        NETWORK,
        rnn2ff.threshold_linear_rate(WEIGHTS),
        rnn2ff.rate_network(StateForm(jnp.tanh), WEIGHTS),
        rnn2ff.rate_network(StateForm(jax.nn.sigmoid), WEIGHTS),
        rnn2ff.winner_take_all(2),
        rnn2ff.wilson_cowan(),
        rnn2ff.hopfield(np.ones((1, 3))),
        rnn2ff.stabilized_supralinear_pair(),
    ],
    ids=lambda network: str(network.vector_field)[:30],
)
def test_a_network_comes_back_from_a_pickle_as_the_same(network):
    again = pickle.loads(pickle.dumps(network))  # as joblib and multiprocessing do
    assert network_hash(again) == network_hash(network) == network_hash(copy.deepcopy(network))
    assert again.vector_field == network.vector_field
    assert jax.tree.structure(again) == jax.tree.structure(network)


def test_the_forms_that_exact_methods_look_for_survive():
    assert pickle.loads(pickle.dumps(NETWORK.vector_field)) == StateForm(jax.nn.relu)
    assert pickle.loads(pickle.dumps(RATE_FORM)).nonlinearity is jax.nn.relu


def report(**more):
    accuracy = rnn2ff.accuracy(SOLUTION + 0.01, SOLUTION)
    counts = {status.name: 0 for status in rnn2ff.Status} | {"converged": 6, "unstable": 1}
    numbers = np.arange(3.0)
    fields = dict(
        accuracy=accuracy,
        nrmse_interval=(0.01, 0.02),
        width=3,
        num_sweeps=0,
        num_training_pairs=6,
        status_counts={"training": counts, "test": counts},
        training=TrainingRun(approximator(), 2, np.arange(3), numbers, numbers),
        seconds={"solving": 1.5},
        stimulus_shift=None,
        tolerance=None,
        is_within_tolerance=None,
        reason=None,
        attempts=(),
        attempt_nrmses=(),
        error_by_margin=None,
        tested_on=SAME_DISTRIBUTION,
        stimulus_range=(np.array([-1.0, -2.0]), np.array([3.0, 4.0])),
    )
    return Report(**fields | more)


def distillation(made):
    pairs = rnn2ff.data.Pairs(jnp.asarray(STIMULI), jnp.asarray(SOLUTION), jnp.asarray(SOLUTION), {"converged": 6})
    return Distillation(made, report(), pairs, NETWORK)


class TestFamiliarity:
    def test_stimuli_that_an_approximator_was_made_from_are_known_again_in_either_precision(self):
        made_for = np.random.default_rng(0).normal(size=(1000, 2))
        card = rnn2ff.model_card(NETWORK, made_for)
        for dtype in (np.float32, np.float64):
            assert familiarity(card, made_for.astype(dtype)) == (1.0, 0.0)
        assert familiarity(card, made_for[:500]).share_known == pytest.approx(0.5, abs=0.01)

    def test_others_are_not_and_those_outside_the_range_are_counted(self):
        card = rnn2ff.model_card(NETWORK, np.array([[0.0, 0.0], [1.0, 2.0]]))
        others = np.array([[0.5, 0.5], [0.5, 2.5], [-0.1, 0.5], [1.0, 1.9]])
        assert familiarity(card, others) == (0.0, 0.5)

    def test_a_card_that_says_nothing_of_stimuli_is_no_answer(self):
        assert familiarity({"license": "MIT"}, STIMULI) is None

    def test_the_range_is_that_of_the_stimuli_that_were_trained_on_not_tested_on(self):
        stimuli = rnn2ff.model_card(NETWORK, STIMULI, report())["stimuli"]
        assert (stimuli["smallest"], stimuli["largest"]) == ([-1.0, -2.0], [3.0, 4.0])


class TestStatedError:
    def test_it_has_the_share_that_comes_to_rest_the_tails_and_what_was_tested_on(self):
        judged = report()
        stated = stated_error(rnn2ff.model_card(NETWORK, STIMULI, judged))
        assert stated["error"].endswith("% (NRMSE); of the 85.71 % that come to rest")  # 6 of 7
        assert stated == {
            "error": judged.accuracy.headline(7),
            **judged.accuracy.lines(),
            "tested on": SAME_DISTRIBUTION,
        }

    def test_an_error_without_tails_is_named_as_such_and_none_is_none(self):
        stated = stated_error({"report": {"accuracy": {"nrmse": 0.05}}})
        assert stated == {"error": "5.00 % (NRMSE); its tails are not in the card"}
        for card in ({}, {"report": None}, {"report": "good"}, {"report": {"accuracy": None}}):
            assert stated_error(card) == {}

    def test_a_unit_that_should_never_vary_keeps_its_infinite_error_in_a_file(self):
        accuracy = rnn2ff.accuracy(np.array([[1, 0.1], [2, 0]]), np.array([[1, 0.0], [2, 0]]))
        card = rnn2ff.model_card(NETWORK, STIMULI, report(accuracy=accuracy))
        assert stated_error(card)["worst unit"] == "1, inf %"


class TestSave:
    def test_a_distillation_is_saved_with_a_card_that_names_its_network(self, tmp_path):
        rnn2ff.save(tmp_path / "one.safetensors", distillation(approximator()), card={"license": "CC0-1.0"})
        made, card = rnn2ff.load(tmp_path / "one.safetensors", network=NETWORK)
        assert_close(made.readout_weights, approximator().readout_weights, 0)
        assert (card["license"], card["report"]["width"], card["stimuli"]["num_rows"]) == ("CC0-1.0", 3, 6)

    def test_a_card_takes_a_report_as_it_is(self):
        assert rnn2ff.model_card(NETWORK, STIMULI, report())["report"] == report().summary()

    def test_a_refined_approximator_names_its_network_by_itself(self, tmp_path):
        two_layer = rnn2ff.TwoLayer(2, 3, 2, is_rectified=False, key=jr.key(0))
        made = rnn2ff.Refined(two_layer, NETWORK, rnn2ff.split_sweep(NETWORK), num_sweeps=1)
        rnn2ff.save(tmp_path / "one.safetensors", made)
        assert rnn2ff.load(tmp_path / "one.safetensors", network=NETWORK)[0].num_sweeps == 1

    @pytest.mark.parametrize(
        "nonlinearity",
        [jnp.tanh, jax.nn.sigmoid, jax.nn.softplus, rnn2ff.PowerLaw(0.3, 2.0)],
        ids=["tanh", "sigmoid", "softplus", "power"],
    )
    def test_sweeps_of_networks_with_other_nonlinearities_are_kept(self, nonlinearity, tmp_path):
        network = rnn2ff.rate_network(rnn2ff.RateForm(nonlinearity), WEIGHTS)
        two_layer = rnn2ff.TwoLayer(2, 3, 2, is_rectified=False, key=jr.key(0))
        made = rnn2ff.Refined(two_layer, network, rnn2ff.split_sweep(network), num_sweeps=2)
        rnn2ff.save(tmp_path / "one.safetensors", made)
        again, _ = rnn2ff.load(tmp_path / "one.safetensors", network=network)
        assert again.network.vector_field == network.vector_field
        assert_close(again(jnp.asarray(STIMULI[0])), made(jnp.asarray(STIMULI[0])), 1e-6)

    def test_one_without_a_card_is_refused_with_a_hint_how_to_get_one(self, tmp_path):
        rnn2ff.save(tmp_path / "one.safetensors", approximator())
        with pytest.raises(ValueError, match="no network named; `save` a whole distillation, or with `card=model_card"):
            rnn2ff.load(tmp_path / "one.safetensors", network=NETWORK)


# --- losses -----------------------------------------------------------------------------------------------------------


class TestLossesOfSamplesWithoutASteadyState:
    """With weights of 2 on the diagonal the second unit runs away once it is driven: only the first stimulus rests."""

    network = rnn2ff.threshold_linear(np.diag([0.5, 2.0]), time_constants=np.array([1.0, 2.0]))
    stimuli = floats([[1.0, -1.0], [1.0, 1.0]])
    targets = floats([[3.0, 0.0], [3.0, 0.0]])

    def train(self, is_kept):
        @eqx.filter_jit
        @eqx.filter_value_and_grad
        def loss(network):
            found = rnn2ff.solve_batch(network, self.stimuli)
            errors = jnp.mean((found.rates(network) - self.targets) ** 2, axis=1)
            return jnp.sum(jnp.where(found.is_converged | ~is_kept, errors, 0))

        network, losses = self.network, []
        for _ in range(8):
            value, gradient = loss(network)
            losses.append(float(value))
            network = eqx.apply_updates(network, jax.tree.map(lambda leaf: -0.02 * leaf, gradient))
        return losses, network

    def test_those_that_the_loss_ignores_do_not_stop_a_training(self):
        losses, network = self.train(jnp.asarray(True))
        assert losses[0] == pytest.approx(0.5, abs=1e-3)  # the first unit rests at 2
        assert losses[-1] < 0.1
        # Steady states do not depend on time constants, which are left exactly as they were.
        np.testing.assert_array_equal(network.params.time_constants, [1, 2])

    def test_those_that_it_sees_make_it_nan(self):
        assert np.isnan(jax.tree.leaves(self.train(jnp.asarray(False))[1])[0]).any()


def test_the_rates_of_solved_samples_are_the_networks():
    assert_close(SOLVED.rates(NETWORK), SOLUTION, 1e-6)
    assert_close(jax.tree.map(lambda leaf: leaf[0], SOLVED).rates(NETWORK), SOLUTION[0], 1e-6)


# --- what is printed --------------------------------------------------------------------------------------------------


def fixed_points():
    return FixedPoints(
        states=np.eye(3)[:2],
        residuals=np.zeros(2),
        eigenvalues=-np.ones((2, 3), complex),
        is_stable=np.array([True, False]),
        spectral_radii=np.zeros(2),
        is_stable_map=np.ones(2, bool),
        indices=np.array([1, -1]),
        audit=Audit.complete,
        explanation="all 8 supports were tried",
        starts=np.zeros((5, 3)),
        reached_by_newton=np.array([0, 0, 1, -1, 1]),
        reached_by_dynamics=np.array([0, 0, 0, -1, 0]),
        failures={},
    )


class TestPrints:
    def test_a_report_prints_what_the_command_line_prints(self):
        text = str(report())
        for line in (
            f"error on unseen stimuli   {100 * report().accuracy.nrmse:.2f} % (NRMSE; 1.00 to 2.00 %); "
            "of the 85.71 % that come to rest",
            f"worst stimuli             one in 20 is off by {100 * report().accuracy.percentile_95:.2f} % or more",
            "tested on                 the training distribution; errors on other distributions are unknown",
            "hidden units              3",
            "without a steady state    excluded: 1 from training, 1 from the test",
            "seconds                   1.5",
        ):
            assert line in text.splitlines()
        assert len(text.splitlines()) == 9
        assert "tolerance                 3 %, not reached: plateau" in str(
            report(tolerance=0.03, is_within_tolerance=False, reason="plateau")
        )
        assert str(distillation(approximator())) == f"TwoLayer, 2 channels to 2 rates\n{text}"
        assert len(repr(report().accuracy)) < 120
        assert len(repr(report().training)) < 120

    def test_fixed_points_print_how_many_there_are_and_how_large_their_basins(self):
        assert str(fixed_points()).splitlines() == [
            "2 fixed points of 3 units",
            "stable, unstable          1, 1",
            "complete                  all 8 supports were tried",
            "point 0, stable           reached from 4 of 5 starts",
        ]

    def test_solved_samples_print_their_verdicts(self):
        one = jax.tree.map(lambda leaf: leaf[0], SOLVED)
        assert one.verdict == "converged" == f"{rnn2ff.Status(one.status)}" == str(rnn2ff.Status.converged)
        assert "verdict                   converged" in str(one)
        assert len(str(one).splitlines()) == 6
        many = rnn2ff.SteadyStates(**vars(SOLVED), plan=None, finished_by={"sweeps": 5})
        assert many.verdict == SOLVED.verdict == ["converged"] * 5 + ["oscillating"]
        lines = str(many).splitlines()
        assert lines[:2] == ["SteadyStates of 2 units, 6 stimuli", "converged                 5"]
        assert "oscillating               1" in lines
        assert "found                     5 by sweeps" in lines
        assert len(lines) == 6

    def test_certificates_and_answers_print_numbers(self):
        certificates = rnn2ff.certify_predictions(NETWORK, STIMULI, STIMULI)
        assert f"{certificates.error_bound.max():.3g} at most" in str(certificates)
        one = rnn2ff.certify(NETWORK, STIMULI[0], STIMULI[0])
        assert f"{float(one.error_bound):.3g} by {rnn2ff.Theorem(int(one.theorem)).name}" in str(one)
        none, whole, zero = jnp.zeros(6, bool), jnp.zeros(6, jnp.int32), jnp.zeros(6)
        served = rnn2ff.Served(jnp.asarray(SOLUTION), zero, zero, whole, whole, none, None)
        assert "by one_pass               6" in str(served)
        assert max(len(str(each).splitlines()) for each in (one, certificates, served)) <= 9

    def test_notebooks_show_the_same_lines_as_a_table_with_every_word_escaped(self):
        shard = {"num_pairs": 2, "status_counts": {"converged": 2}}
        stored = rnn2ff.data.storage.StoredPairs(Path("<b>"), {"stimuli": "<script>&", "shards": [shard]})
        served = rnn2ff.Served(*map(jnp.asarray, (SOLUTION, *[np.zeros(6, each) for each in "ddii?"])), plan=None)
        one = jax.tree.map(lambda leaf: leaf[0], SOLVED)
        many = rnn2ff.SteadyStates(**vars(SOLVED), plan=None, finished_by={"<i>": 5})
        certificates = rnn2ff.certify_predictions(NETWORK, STIMULI, STIMULI)
        results = (report(), distillation(approximator()), fixed_points(), one, many, certificates, served, stored)
        for result in results:
            page = ElementTree.fromstring(result._repr_html_())
            words = [" ".join(line.split()) for line in repr(result).splitlines()]
            caption = page.find("caption")
            rows = [" ".join(" ".join(cell.text.split()) for cell in row) for row in page.iter("tr")]
            assert ([] if caption is None else [caption.text]) + rows == words
        shape = ElementTree.fromstring(jax.eval_shape(lambda: SOLVED)._repr_html_())
        assert shape.tag == "pre"

    def test_other_results_print_no_matrix(self):
        times = jnp.arange(3.0)
        motion = rnn2ff.Trajectory(times, jnp.ones((3, 40)), jnp.ones((3, 40)), jnp.array(True))
        motions = jax.tree.map(lambda each: jnp.stack([each, each]), motion)
        network = rnn2ff.threshold_linear(0.5 * np.eye(40))
        names = tuple(f"unit {i}" for i in range(40))
        connectome = Connectome(scipy.sparse.csr_array(np.eye(40)), names)
        integers = rnn2ff.quantize(rnn2ff.TwoLayer(40, 50, 40, key=jr.key(0)), np.eye(40))
        told = {
            "last state": motion,
            "complete                  2 of 2": motions,
            "largest real part         -0.5": rnn2ff.linearize(network, np.ones(40), np.ones(40)),
            "one fixed point for every stimulus": rnn2ff.stability_constants(network),
            "connections               40": connectome,
            "the weights prove one": (plan := rnn2ff.plan_steady_states(NETWORK, STIMULI)),
            "hidden units              50": integers,
        }
        for line, result in told.items():
            assert line in str(result)
            assert len(str(result)) < 400
            assert "<table>" in result._repr_html_()
        assert "times" in repr(jax.eval_shape(lambda: motion))
        assert "method" in repr(jax.eval_shape(lambda: plan))
        assert "by sweeps                 2" in str(jax.tree.map(lambda each: jnp.stack([each, each]), plan))

    def test_a_small_error_is_not_printed_as_none(self):
        small = report().accuracy._replace(nrmse=1.26e-5, percentile_95=4e-4)
        assert "error on unseen stimuli   0.0013 % (NRMSE; 0.002 to 2.00 %)" in str(
            report(accuracy=small, nrmse_interval=(2e-5, 0.02))
        )
        assert "off by 0.04 % or more" in str(report(accuracy=small))

    def test_a_distillation_and_fixed_points_draw_themselves(self):
        left, right = distillation(approximator()).plot().axes
        assert left.get_title() == f"error {100 * report().accuracy.nrmse:.1f} % (NRMSE)"
        assert right.get_xlabel() == "optimizer steps"
        (plane,) = fixed_points().plot().axes
        assert sum(len(dots.get_offsets()) for dots in plane.collections) == 2
        with pytest.raises(ValueError, match="states.*are none"):
            fixed_points()._replace(states=np.zeros((0, 3))).plot()

    def test_a_report_is_one_page_that_fetches_and_runs_nothing(self, tmp_path):
        small, swept = Attempt(3, 0, 12, 6, 0.1, 0.1, 1.0), Attempt(2, 4, 24, 6, 0.1, 0.1, 1.0)
        attempts = (small, swept, small._replace(num_training_pairs=24))
        hostile = report(
            attempts=attempts,
            attempt_nrmses=(0.125, 0.0625, 0.11),
            tolerance=0.03,
            is_within_tolerance=False,
            reason="<script>alert(1)</script><img src=http://a>",
        )
        found = distillation(approximator())._replace(report=hostile)
        rnn2ff.write_report(tmp_path / "report.html", found)
        page = (tmp_path / "report.html").read_text()
        assert "default-src 'none'; img-src data:" in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert not re.findall(r"<script|<link|<iframe|<img src|\son\w+=|url\(|src=\"(?!data:image/svg)", page)
        rows = dict(re.findall(r"<th[^>]*>(.*?)</th><td[^>]*>(.*?)</td>", page))
        assert rows["3 hidden units alone, 6 pairs"].startswith("12.50 %")
        assert rows["3 hidden units alone, 24 pairs"].startswith("11.00 %")
        assert rows["2 hidden units and 4 sweeps, 6 pairs"].startswith("6.25 %")
        assert rows["test"] == "85.7 % of 7, 1 unstable"
        # Errors of single units and stimuli, in plain NumPy.
        errors = np.asarray(jax.vmap(found.approximator)(jnp.asarray(STIMULI))) - SOLUTION
        of_units = 100 * np.sqrt((errors**2).mean(axis=0)) / SOLUTION.std(axis=0)
        of_stimuli = 100 * np.sqrt((errors**2).mean(axis=1) / (SOLUTION.std(axis=0) ** 2).mean())
        worst = re.findall(r">worst</th><td[^>]*>(.*?) %</td>", page)
        assert [float(each) for each in worst] == pytest.approx([of_units.max(), of_stimuli.max()], abs=0.006)
        figure = base64.b64decode(re.search(r"data:image/svg\+xml;base64,([^\"]+)", page)[1])
        assert ElementTree.fromstring(figure).tag.endswith("svg")

    def test_stored_pairs_print_their_counts(self):
        shard = {"num_pairs": 2, "status_counts": {"converged": 2}}
        manifest = {"stimuli": "uniform", "shards": [shard] * 74}
        text = str(rnn2ff.data.storage.StoredPairs(Path("somewhere"), manifest))
        assert text.startswith("148 stored pairs\n")
        assert len(text) < 300

    def test_placeholders_inside_a_program_print_as_such(self):
        seen = []

        @jax.jit
        def solve(stimuli):
            solved = eqx.tree_at(lambda each: each.state, SOLVED, stimuli)
            seen.append(repr(solved))
            return solved

        solve(jnp.asarray(STIMULI))
        assert "status" in seen[0]
        assert repr(jax.eval_shape(solve, jnp.asarray(STIMULI)))
        assert repr(jax.tree.map(lambda _: True, SOLVED))


def test_dir_shows_public_names_and_modules_and_no_more():
    names = [name for name in dir(rnn2ff) if not name.startswith("__")]
    assert not {"importlib", "TYPE_CHECKING"} & set(names)
    assert set(rnn2ff.__all__) < set(names)
    assert callable(rnn2ff.plotting.plot_rates)
    for name in names:
        getattr(rnn2ff, name)


@pytest.mark.parametrize("name", rnn2ff.__all__)
def test_the_help_of_a_public_name_is_short_or_names_types_by_their_aliases(name):
    named = getattr(rnn2ff, name)
    if not (inspect.isclass(named) and issubclass(named, enum.Enum)):
        signature = str(inspect.signature(named))
        assert len(signature) < 750
        assert len(signature) < 350 or not re.search(r"jaxlib|jaxtyping|Union", signature)


def named_tuples():
    functions = [each for name in rnn2ff.__all__ if inspect.isfunction(each := getattr(rnn2ff, name))]
    returned = (each.__annotations__["return"] for each in functions)
    kinds = [vars(sys.modules[each.__module__]).get(kind, kind) for each, kind in zip(functions, returned)]
    return {kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, tuple)} | {Report}


@pytest.mark.parametrize("kind", sorted(named_tuples(), key=lambda kind: kind.__name__))
def test_tab_shows_the_fields_of_a_result_and_not_that_it_is_a_tuple(kind):
    names = dir(kind(*(None for _ in kind._fields)))
    assert set(kind._fields) < set(names)
    assert not {"count", "index"} & set(names)
