import re
import subprocess

import jax.random as jr
import numpy as np
import pytest
from exported import EXAMPLES, STIMULI, approximator_of, example, relative_error

from rnn2ff import accuracy
from rnn2ff.export import footprint, quantize, read_exported, to_c
from rnn2ff.export.fixed_point import rescale

COMPILE = ("gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsanitize=undefined", "-O1")
# The floats come in through the sanitizer's eyes, too: converting one that does not fit is an error.
MAIN = {
    "float": """
        float rates[NET_RATE_SIZE];
        net_predict(stimulus, rates);
    """,
    "int8": """
        int16_t units[NET_STIMULUS_SIZE], rates[NET_RATE_SIZE];
        for (int i = 0; i < NET_STIMULUS_SIZE; i++) {
            units[i] = net_quantized(stimulus[i]);
        }
        net_predict(units, rates);
    """,
}


def run_compiled(header, main, stimuli, dtype, folder):
    """Compile a header with strict warnings, and run it on stimuli."""
    (folder / "net.h").write_text(header)
    (folder / "main.c").write_text(
        '#include <stdio.h>\n#include "net.h"\n'
        "int main(void)\n{\n    float stimulus[NET_STIMULUS_SIZE];\n"
        f"    while (fread(stimulus, sizeof stimulus, 1, stdin) == 1) {{{main}"
        "        fwrite(rates, sizeof rates, 1, stdout);\n    }\n    return 0;\n}\n"
    )
    subprocess.run([*COMPILE, "main.c", "-o", "main"], cwd=folder, check=True)
    done = subprocess.run([folder / "main"], input=stimuli.tobytes(), capture_output=True, check=True)
    assert done.stderr == b""
    return np.frombuffer(done.stdout, dtype).reshape(len(stimuli), -1)


@pytest.fixture(params=EXAMPLES)
def exported(request):
    return example(request.param)


def test_the_float_header_computes_what_jax_computes(exported, tmp_path):
    approximator, expected = exported
    received = run_compiled(to_c(approximator, name="net"), MAIN["float"], STIMULI, np.float32, tmp_path)
    assert relative_error(received, expected) < 1e-6


def test_the_int8_header_is_bit_identical_to_the_integer_model(exported, tmp_path):
    approximator, expected = exported
    model = quantize(approximator, STIMULI[:500])
    far = np.concatenate([STIMULI, 100 * STIMULI[:100], [[1e30, -1e30, np.inf]]]).astype(np.float32)  # saturates
    received = run_compiled(to_c(model, name="net"), MAIN["int8"], far, np.int16, tmp_path)
    np.testing.assert_array_equal(received, model(model.quantize_stimuli(far)))
    assert np.abs(model.quantize_stimuli(far)).max() == 32767
    assert 1e-5 < accuracy(received[500:1000] * model.rate_scale, expected[500:]).nrmse < 0.02


def test_with_16_bit_weights_the_header_is_the_model_and_nearly_exact(exported, tmp_path):
    approximator, expected = exported
    model = quantize(approximator, STIMULI[:500], weight_bits=16)
    header = to_c(model, name="net")
    received = run_compiled(header, MAIN["int8"], STIMULI, np.int16, tmp_path)
    np.testing.assert_array_equal(received, model(model.quantize_stimuli(STIMULI)))
    coarse = quantize(approximator, STIMULI[:500]).predict(STIMULI)
    fine_error, coarse_error = (
        accuracy(rates[500:1000], expected[500:1000]).nrmse for rates in (received * model.rate_scale, coarse)
    )
    assert fine_error < min(0.002, coarse_error / 5)
    (tmp_path / "again.h").write_text(header)
    np.testing.assert_array_equal(read_exported(tmp_path / "again.h").predict(STIMULI[:9]), model.predict(STIMULI[:9]))
    with pytest.raises(ValueError, match="`weight_bits` is out of range. Expected 8 or 16, got 4"):
        quantize(approximator, STIMULI, weight_bits=4)


def by_hand(layer, signal):
    """The arithmetic of a layer with the whole numbers of Python, which do not overflow."""
    outputs = []
    for weights, bias, multiplier, shift in zip(*(array.tolist() for array in layer)):
        product = multiplier * (sum(w * s for w, s in zip(weights, signal)) + bias)
        magnitude = (abs(product) + 2 ** (shift - 1)) // 2**shift
        outputs.append(max(-32767, min(32767, magnitude if product > 0 else -magnitude)))
    return outputs


def test_the_integer_model_is_its_arithmetic_by_hand():
    model = quantize(example("bypass")[0], STIMULI[:500])
    for stimulus in model.quantize_stimuli(STIMULI[:50]).tolist():
        hidden = [max(each, 0) for each in by_hand(model.hidden, stimulus)]
        passed = zip(by_hand(model.readout, hidden), by_hand(model.bypass, stimulus))
        expected = [max(0, min(32767, one + other)) for one, other in passed]
        assert model(np.array([stimulus], np.int16)).tolist() == [expected]


def test_the_sweeps_of_the_integer_model_are_their_arithmetic_by_hand():
    model = quantize(example("refined")[0], STIMULI[:500])
    sweeps = model.sweeps

    def rounded(product, bits):
        return int(np.sign(product)) * ((abs(product) + 2 ** (bits - 1)) // 2**bits)

    for stimulus in model.quantize_stimuli(STIMULI[:20]).tolist():
        hidden = [max(each, 0) for each in by_hand(model.hidden, stimulus)]
        drive = by_hand(sweeps.drive, stimulus)
        parts = zip(drive, by_hand(model.readout, hidden), by_hand(model.bypass, stimulus))
        state = before = [sum(each) for each in parts]
        for steps, momenta in zip(sweeps.steps.tolist(), sweeps.momenta.tolist()):
            gains = [sweeps.positive_gains[i] if state[i] > 0 else sweeps.negative_gains[i] for i in range(4)]
            fed_back = by_hand(sweeps.recurrent, [rounded(state[i] * int(gains[i]), 15) for i in range(4)])
            changes = [
                steps[i] * (drive[i] + fed_back[i] - state[i]) + momenta[i] * (state[i] - before[i]) for i in range(4)
            ]
            before, state = state, [state[i] + rounded(changes[i], 14) for i in range(4)]
        assert model(np.array([stimulus], np.int16)).tolist() == [[max(each, 0) for each in state]]


@pytest.mark.parametrize(
    ("total", "multiplier", "shift", "expected"),
    [(3, 1, 1, 2), (-3, 1, 1, -2), (5, 1, 2, 1), (-5, 1, 2, -1), (2**40, 32767, 1, 32767), (-(2**40), 1, 1, -32767)],
)
def test_rescaling_rounds_halves_away_from_zero_and_saturates(total, multiplier, shift, expected):
    assert rescale(np.array([total]), np.array([multiplier]), np.array([shift])).tolist() == [expected]


def test_the_footprint_is_that_of_the_arrays_in_the_header():
    approximator, _ = example("refined")
    # Two layers of 3, 5 and 4 units with a bypass; a drive from 3 channels, and three sweeps of 4 units.
    matrices = 5 * 3 + 4 * 5 + 4 * 3 + 4 * 3 + 4 * 4
    vectors = 5 + 4 + 4 + 4 + 2 * 3 * 4
    assert footprint(approximator) == (4 * (matrices + vectors), 4 * (5 + 5 * 4), matrices + 2 * 4 * 4)
    rows = 5 + 4 + 4 + 4 + 4
    whole = footprint(quantize(approximator, STIMULI))
    assert whole == (matrices + 7 * rows + 4 * (4 + 4 + 2 * 3 * 4), 2 * (5 + 5 * 4), matrices + 2 * 4 * 4)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_a_header_allocates_nothing_and_calls_no_library(kind):
    approximator = example("refined")[0]
    header = to_c(approximator if kind == "float" else quantize(approximator, STIMULI), name="net")
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    assert re.findall(r"#include (\S+)", code) == ([] if kind == "float" else ["<stdint.h>"])
    called = set(re.findall(r"\b(\w+)\(", code)) - {"for", "if"}
    assert all(name.startswith("net_") for name in called)
    assert "$" not in code
    if kind == "int8":
        before_helpers = header[: header.index("/* For machines that have floating point")]
        assert not re.search(r"\b(float|double)\b", re.sub(r"/\*.*?\*/", "", before_helpers, flags=re.DOTALL))


def test_a_header_is_the_same_for_the_same_approximator():
    approximator, _ = example("refined")
    assert to_c(approximator) == to_c(approximator)


@pytest.mark.parametrize("name", ["", "Net", "2nd", "a-b", "a b"])
def test_a_name_that_c_does_not_take_is_refused(name):
    with pytest.raises(ValueError, match="`name` cannot be the prefix of C names.*Expected.*got"):
        to_c(example("two layers")[0], name=name)


def test_stimuli_that_set_no_range_are_refused():
    with pytest.raises(ValueError, match="stimuli.*define no range.*got 3 rows of zeros"):
        quantize(example("two layers")[0], np.zeros((3, 3)))


def test_a_row_of_zeros_and_a_silent_layer_are_no_trouble():
    approximator = approximator_of(jr.key(0))
    weights = np.asarray(approximator.hidden_weights) * 0
    object.__setattr__(approximator, "hidden_weights", weights)
    object.__setattr__(approximator, "hidden_bias", np.full(4, -1.0, weights.dtype))
    bias = np.maximum(approximator.readout_bias, 0)
    np.testing.assert_allclose(quantize(approximator, STIMULI).predict(STIMULI[:3]), [bias] * 3, atol=1e-3)


@pytest.mark.parametrize("kind", ["two layers", "bypass", "refined"])
def test_a_header_in_whole_numbers_is_read_again_as_the_model_that_it_is(kind, tmp_path):
    model = quantize(example(kind)[0], STIMULI[:500])
    card = {"network": {"hash": "12ab"}, "stimuli": {"smallest": [-3.0, -2.0, 0.0], "largest": [1.0, 2.0, 3.0]}}
    for name, more in {"plain": {}, "tested": {"test_stimuli": STIMULI, "card": card, "notes": ["A note."]}}.items():
        (tmp_path / f"{name}.h").write_text(to_c(model, name=name, **more))
        again = read_exported(tmp_path / f"{name}.h")
        np.testing.assert_array_equal(again.predict(STIMULI[:50]), model.predict(STIMULI[:50]))
        assert again.network_hash == ("12ab" if more else None)
        if more:
            np.testing.assert_allclose(again.stimulus_range, [[-3, -2, 0], [1, 2, 3]], atol=model.stimulus_scale)
        else:
            assert again.stimulus_range is None
        assert (again.stimulus_size, again.rate_size) == (STIMULI.shape[1], model.rate_size)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_the_self_test_passes_and_counts_wrong_rates(kind, tmp_path):
    approximator = example("refined")[0]
    model = approximator if kind == "float" else quantize(approximator, STIMULI)
    header = to_c(model, name="net", test_stimuli=STIMULI)
    counts = []
    for text in (header, re.sub(r"(net_test_rates\[\d+\] = \{\s+)", r"\g<1>1 + ", header)):
        (tmp_path / "net.h").write_text(text)
        main = '#define NET_SELF_TEST\n#include "net.h"\nint main(void) { return net_self_test(); }\n'
        (tmp_path / "main.c").write_text(main)
        subprocess.run([*COMPILE, "main.c", "-o", "main"], cwd=tmp_path, check=True)
        counts.append(subprocess.run([tmp_path / "main"], check=False).returncode)
    assert counts == [0, 1]


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_the_channels_outside_the_range_of_the_training_are_counted(kind, tmp_path):
    approximator = example("two layers")[0]
    model = approximator if kind == "float" else quantize(approximator, STIMULI)
    inside = STIMULI[np.abs(STIMULI).max(axis=1) < 2]
    card = {"stimuli": {"smallest": inside.min(axis=0), "largest": inside.max(axis=0)}}
    main = MAIN[kind].replace("net_predict(", "rates[0] = net_num_outside(").replace(", rates);", ");")
    main += "rates[1] = 0;"
    kind_of_rates = np.float32 if kind == "float" else np.int16
    received = run_compiled(to_c(model, name="net", card=card), main, STIMULI, kind_of_rates, tmp_path)
    channels = STIMULI if kind == "float" else model.quantize_stimuli(STIMULI)
    known = channels[np.abs(STIMULI).max(axis=1) < 2]
    expected = ((channels < known.min(axis=0)) | (channels > known.max(axis=0))).sum(axis=1)
    np.testing.assert_array_equal(received.reshape(len(STIMULI), -1)[:, 0], expected)
    assert set(expected) >= {0, 1}


@pytest.mark.parametrize("smallest", [[0.0], [np.nan, 0.0, 0.0], [None, 0.0, 0.0]])
def test_a_card_with_another_range_is_refused(smallest):
    with pytest.raises(ValueError, match="`range of the stimuli in the card`"):
        to_c(example("two layers")[0], card={"stimuli": {"smallest": smallest, "largest": [1.0, 1.0, 1.0]}})


def test_a_note_that_ends_the_comment_is_refused():
    with pytest.raises(ValueError, match="`notes` would end the comment"):
        to_c(example("two layers")[0], notes=["*/ int x;"])
