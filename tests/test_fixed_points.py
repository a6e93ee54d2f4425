"""All fixed points of a network: lists that are known, lists that a slow search finds, and audits."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from arrays import floats
from problems import assert_close, closeness, default_float
from scipy.optimize import root

from rnn2ff import (
    ctln,
    find_fixed_points,
    hopfield,
    motion_stimulus,
    partition_competition,
    random_rate_network,
    ring_attractor,
    stabilized_supralinear_pair,
    threshold_linear,
    threshold_linear_rate,
    wilson_cowan,
    wong_wang,
)
from rnn2ff.analysis import Audit
from rnn2ff.analysis.index import index_theorem
from rnn2ff.analysis.newton import search
from rnn2ff.analysis.supports import enumerate_fixed_points
from rnn2ff.networks import all_supports, is_p_matrix

SIX_DIGITS = 1e-6 if default_float() == jnp.float64 else 1e-4
GRAPH_C = np.array([[int(entry) for entry in row] for row in ["00001", "00101", "00010", "10100", "11000"]])


def weights_of(network):
    return np.asarray(network.params.recurrent_weights, np.float64)


def by_trial(weights, drive):
    """Rates of every fixed point of `r = [W r + h]_+`: try all supports, one after the other."""
    found = []
    for support in itertools.product([False, True], repeat=len(weights)):
        on = np.flatnonzero(support)
        rates = np.zeros(len(weights))
        rates[on] = np.linalg.solve(np.eye(len(on)) - weights[np.ix_(on, on)], drive[on])
        inputs = weights @ rates + drive
        if (rates[on] > 0).all() and (np.delete(inputs, on) <= 0).all():
            found.append(rates)
    return np.array(found).reshape(-1, len(weights))


def in_order(points):
    return np.array(sorted(np.round(points, 6).tolist()))


class TestKnownLists:
    def test_the_three_fixed_points_of_wilson_and_cowan_with_their_stability_and_basins(self, key):
        found = find_fixed_points(wilson_cowan(), np.zeros(2), num_starts=64, key=key)
        assert_close(found.states, [[0, 0], [0.938430, 0.672481], [0.336852, 0.168420]], SIX_DIGITS)
        assert found.is_stable.tolist() == [True, True, False]
        assert found.indices.tolist() == [1, 1, -1]
        assert found.audit == Audit.passed
        assert "sum to +1, as they must (the rates are bounded)" in found.explanation
        assert found.basin_counts[:2].sum() == 64  # the dynamics end at the stable ones
        assert (found.basin_counts[:2] > 0).all()
        assert found.newton_counts.sum() + (found.reached_by_newton < 0).sum() == 64
        assert found.residuals.max() < closeness()

    def test_the_decisions_and_the_saddle_of_wong_and_wang_with_a_box_that_holds_them(self, key):
        found = find_fixed_points(wong_wang(), motion_stimulus(0.0), num_starts=64, box=(0.0, 1.0), key=key)
        assert_close(found.states, [[0.051807, 0.658694], [0.658694, 0.051807], [0.424456, 0.424456]], SIX_DIGITS)
        assert found.is_stable.tolist() == [True, True, False]
        assert found.audit == Audit.passed
        assert "points into the box" in found.explanation
        elsewhere = find_fixed_points(wong_wang(), motion_stimulus(0.0), num_starts=16, box=(0.5, 1.0), key=key)
        assert elsewhere.audit == Audit.not_applicable
        assert "does not point into the box" in elsewhere.explanation
        assert len(elsewhere.states) == 0
        assert elsewhere.failures["left the box, or became infinite or NaN"] > 0
        unboxed = find_fixed_points(wong_wang(), motion_stimulus(1.0), num_starts=16, key=key)
        assert_close(unboxed.states, [[0.709281, 0.023964]], SIX_DIGITS)
        assert "pass a `box`" in unboxed.explanation

    def test_the_memories_of_a_hopfield_network_their_mirrors_and_what_is_between(self, key):
        patterns = np.array([[1, 1, 1, 1, -1, -1, -1, -1], [1, -1, 1, -1, 1, -1, 1, -1]])
        found = find_fixed_points(hopfield(patterns), np.zeros(8), num_starts=64, key=key)
        assert len(found.states) == 9  # two memories with mirrors, four mixtures and zero: 3 x 3
        overlaps = np.sort(np.abs(found.states @ patterns.T) / 8, axis=1)
        size = root(lambda s: 0.75 * np.tanh(4 * s) - s, 0.7).x
        assert_close(overlaps[:4], np.tile([0, *size], (4, 1)), 1e-5)
        assert found.is_stable.tolist() == [True] * 4 + [False] * 5
        assert (found.audit, found.index_sum) == (Audit.passed, 1)

    def test_a_competition_that_is_hard_has_its_winners_and_the_tie(self, key):
        network = partition_competition(2, 1, self_excitation=1.3)
        found = find_fixed_points(network, np.ones(2), num_starts=32, key=key)
        rates = np.maximum(found.states, 0)
        one = 1 / (1 - 1.3 + 1.5)
        tie = 1 / (1 - 1.3 + 2 * 1.5)
        assert_close(rates, [[0, one, one], [one, 0, one], [tie, tie, 2 * tie]], closeness())
        assert found.is_stable.tolist() == [True, True, False]
        assert found.audit == Audit.complete

    def test_the_map_need_not_be_stable_where_the_dynamics_are(self, key):
        """x' = -x - 2 [x]_+ + 1 decays; x+ = -2 [x]_+ + 1 overshoots more and more."""
        found = find_fixed_points(threshold_linear(jnp.array([[-2.0]])), np.ones(1), num_starts=8, key=key)
        assert_close(found.states, [[1 / 3]], closeness())
        assert_close(found.eigenvalues, [[-3]], SIX_DIGITS)
        assert_close(found.spectral_radii, [2], SIX_DIGITS)
        assert (found.is_stable.tolist(), found.is_stable_map.tolist()) == ([True], [False])

    def test_a_saddle_is_one_however_slow_its_unit_is_beside_others(self, key):
        """x' = -x + 1.5 [x]_+ - .1 rests at -.1, and leaves .2 in twice its own time constant."""
        network = threshold_linear(jnp.diag(jnp.array([0.0, 1.5])), time_constants=np.array([1.0, 1e13]))
        found = find_fixed_points(network, np.array([0.5, -0.1]), num_starts=8, key=key)
        assert_close(found.states, [[0.5, -0.1], [0.5, 0.2]], closeness())
        assert found.is_stable.tolist() == [True, False]
        assert_close(found.spectral_radii, [0, 1.5], SIX_DIGITS)


class TestSupports:
    @pytest.mark.parametrize("form", [threshold_linear, threshold_linear_rate])
    def test_the_list_is_that_of_trying_supports_one_after_the_other(self, form):
        generator = np.random.default_rng(0)
        for _ in range(20):
            network = form(floats(generator.standard_normal((5, 5))), bias=generator.standard_normal(5))
            stimulus = np.asarray(generator.standard_normal(5), network.dtype)
            drive = stimulus.astype(float) + np.asarray(network.params.bias, np.float64)
            listed = enumerate_fixed_points(network, stimulus)
            rates = np.maximum(listed.states, 0)
            np.testing.assert_allclose(in_order(rates), in_order(by_trial(weights_of(network), drive)), atol=2e-5)

    def test_a_singular_support_is_counted_if_it_has_solutions(self):
        line = enumerate_fixed_points(threshold_linear_rate(jnp.array([[0.0, -1.0], [-1.0, 0.0]])), np.ones(2))
        assert line.num_degenerate == 1  # r1 + r2 = 1
        none = enumerate_fixed_points(threshold_linear_rate(jnp.array([[1.0]])), np.ones(1))
        assert (len(none.states), none.num_degenerate) == (0, 0)

    @pytest.mark.parametrize("size", [12, 14, 16])
    def test_blocks_of_many_units_are_not_singular_for_their_small_determinants(self, size):
        """All excite all: one fixed point, r = 1 / (1 + (n - 1) (1 - .25)), and a condition number of about 3 n."""
        network = ctln(np.ones((size, size), int) - np.eye(size, dtype=int))
        listed = enumerate_fixed_points(network, np.ones(size, network.dtype))
        assert listed.num_degenerate == 0
        assert_close(np.maximum(listed.states, 0), [[1 / (1 + 0.75 * (size - 1))] * size], 1e-6)

    def test_minors_that_are_small_are_still_positive(self):
        """`I - W = .1 I + .9 (all ones)` is positive definite, and `det / (product of row norms)` is 1e-16."""
        assert is_p_matrix(0.1 * np.eye(12) + 0.9)
        assert not is_p_matrix(0.1 * np.eye(12) - 0.9)
        assert not is_p_matrix(np.ones((3, 3)))

    def test_a_cyclic_union_has_every_union_of_fixed_points_of_its_parts(self, key):
        """Curto, Geneson and Morrison, Neural Computation 31, 2019: here any units of three independent sets each."""
        graph = np.kron(np.roll(np.eye(3, dtype=int), 1, axis=0), np.ones((4, 4), int))
        found = find_fixed_points(ctln(graph), np.ones(12), num_starts=16, key=key)
        assert found.audit == Audit.complete
        supports = found.states > 0
        assert len({tuple(row) for row in supports}) == len(supports) == 15**3
        assert supports.reshape(-1, 3, 4).any(axis=2).all()

    def test_all_supports_are_all_sets(self):
        assert len({tuple(row) for row in all_supports(6)}) == 64

    def test_starts_alone_find_what_the_supports_give(self, key):
        listed, searched = (
            find_fixed_points(ctln(GRAPH_C), np.ones(5), num_starts=64, enumerate_supports=choice, key=key)
            for choice in (None, False)
        )
        assert (listed.audit, searched.audit) == (Audit.complete, Audit.passed)
        assert_close(listed.states, searched.states)
        assert ["".join(map(str, 1 + np.flatnonzero(row > 1e-3))) for row in listed.states[:3]] == ["34", "25", "15"]
        assert {"".join(map(str, 1 + np.flatnonzero(row > 1e-3))) for row in listed.states[3:]} == {
            "125",
            "145",
            "234",
            "12345",
        }


class TestAudit:
    def test_a_continuum_of_fixed_points_has_no_index(self, key):
        found = find_fixed_points(ring_attractor(8, mean=-2.0, tuned=4.0), jnp.ones(8), num_starts=32, key=key)
        assert found.audit == Audit.degenerate
        assert "not isolated" in found.explanation

    def test_a_list_that_misses_some_says_so(self, key, monkeypatch):
        """Searches that end at the saddle, where the total input to the excitatory units is 2.36, are kept from it."""
        import rnn2ff.analysis.multistart as module

        def crippled(network, stimulus, points, **options):
            ends, is_zero, is_stuck = search(network, stimulus, points, **options)
            keep = (ends[:, 0] < 1) | (ends[:, 0] > 4)
            return np.where(keep[:, None], ends, np.nan), is_zero & keep, is_stuck

        monkeypatch.setattr(module, "search", crippled)
        found = find_fixed_points(wilson_cowan(), np.zeros(2), num_starts=64, key=key)
        assert len(found.states) == 2
        assert found.audit == Audit.missed_some
        assert "fixed points are missing: the indices sum to +2" in found.explanation

    def test_the_index_theorem_holds_where_rates_stay_bounded(self):
        """Where nothing solves `z r = [W r]_+` for a z >= 1: neither alone nor together do units grow for ever."""
        holds = {
            "one unit that excites itself": (np.array([[1.5]]), False),
            "held back by a second": (np.array([[1.5, -2.0], [1.5, 0.0]]), True),
            "held back too little": (np.array([[1.5, -0.1], [1.0, 0.0]]), False),
            "two that excite each other": (np.array([[0.0, 1.2], [1.2, 0.0]]), False),
            "inhibition": (-np.ones((3, 3)), True),
            "weak": (np.array([[0.0, 0.5], [0.5, 0.0]]), True),
            "two that excite themselves": (1.5 * np.eye(2), False),
        }
        for name, (weights, expected) in holds.items():
            assert index_theorem(threshold_linear(floats(weights)))[0] == expected, name

    def test_where_it_holds_every_list_sums_to_one(self):
        generator = np.random.default_rng(3)
        num_held = 0
        for _ in range(40):
            weights = generator.standard_normal((4, 4)) * 1.2
            network = threshold_linear_rate(floats(weights))
            rates = by_trial(weights_of(network), stimulus := generator.standard_normal(4))
            blocks = [np.eye((row > 0).sum()) - weights[np.ix_(row > 0, row > 0)] for row in rates]
            total = sum(np.sign(np.linalg.det(block)) for block in blocks)
            if index_theorem(network)[0]:
                num_held += 1
                assert total == 1, (weights, stimulus)
        assert 5 < num_held < 40

    def test_no_theorem_applies_to_a_power_law(self):
        assert "without bound" in index_theorem(stabilized_supralinear_pair())[1]

    def test_a_tanh_network_in_chaos_has_a_list_that_adds_up(self, key):
        network = random_rate_network(8, gain=3.0, key=jr.key(3))
        found = find_fixed_points(network, np.zeros(8), num_starts=64, key=key)
        assert found.audit == Audit.passed
        weights = weights_of(network)
        searches = [
            root(lambda x: weights @ np.tanh(x) - x, start, tol=1e-12)
            for start in np.random.default_rng(0).normal(size=(60, 8)) * 3
        ]
        for each in searches:
            if each.success and np.abs(weights @ np.tanh(each.x) - each.x).max() < 1e-9:
                assert np.abs(found.states - each.x).max(axis=1).min() < 1e-4
        mirrored = in_order(-found.states)
        np.testing.assert_allclose(mirrored, in_order(found.states), atol=1e-4)  # an odd field has an even list


class TestSearch:
    def test_ends_at_zeros_or_says_that_it_was_stuck(self):
        """x^2 + 1 = 0 has no solution: every search ends at 0, where it is smallest."""
        from rnn2ff import RecurrentNetwork

        network = RecurrentNetwork(lambda params, x, u: x**2 + u, {}, state_size=1, stimulus_size=1)
        starts = np.linspace(-2, 2, 100)[:, None].astype(network.dtype)
        for stimulus, expected in [(1.0, 0), (-1.0, 100)]:
            ends, is_zero, is_stuck = search(
                network, jnp.full(1, stimulus, network.dtype), starts, tolerance=1e-5, max_steps=200
            )
            assert is_zero.sum() == expected
            assert is_stuck.sum() == 100 - expected
            if expected:
                assert_close(np.abs(ends), np.ones((100, 1)), 1e-4)

    def test_the_same_key_gives_the_same_answer_and_starts_of_the_user_are_used(self, key):
        network, stimulus = wilson_cowan(), np.zeros(2)
        starts = np.array([[0.93, 0.67], [0.0, 0.0]])
        one, other = (find_fixed_points(network, stimulus, num_starts=64, starts=starts, key=key) for _ in range(2))
        for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
            np.testing.assert_array_equal(first, second)
        assert_close(one.starts[:2], starts, 1e-6)
        assert len(one.starts) == 66
        assert_close(one.states[one.reached_by_newton[:2]], [[0.938430, 0.672481], [0, 0]], SIX_DIGITS)
        assert (one.reached_by_dynamics[:2] == one.reached_by_newton[:2]).all()


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stimulus": np.ones(3)}, r"stimulus.*\(2,\), got \(3,\)"),
        ({"num_starts": 0}, "num_starts.*at least 1"),
        ({"starts": np.ones((4, 3))}, r"starts.*\(4, 2\), got \(4, 3\)"),
        ({"starts": np.full((1, 2), np.nan)}, "starts.*NaN"),
        ({"box": (1.0, 1.0)}, "box.*is empty"),
        ({"box": (0.0, np.inf)}, "box.*not finite"),
        ({"enumerate_supports": True}, "enumerate_supports.*threshold-linear network of at most 16"),
        ({"tolerance": 1e-30}, "tolerance.*below what"),
    ],
)
def test_bad_input_is_refused(options, message, key):
    with pytest.raises(ValueError, match=message):
        find_fixed_points(wilson_cowan(), **{"stimulus": np.zeros(2), **options}, key=key)
