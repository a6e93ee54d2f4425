"""To a microcontroller, with an error bound.

From a recurrent network to an integer-only C header, whose answers are known bit for bit, and to a proved bound of
how far each of them is from the steady rates. The command line does the same: `rnn2ff export --to c-int16`, and
`rnn2ff certify --model deploy/rnn2ff_int16.h`.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import jax.random as jr
import numpy as np

import rnn2ff

folder = Path(tempfile.mkdtemp())

# %% A network, and its approximator
# The size may be given: here five sweeps, without hidden units before them.
network = rnn2ff.random_threshold_linear(20, gain=0.7, key=jr.key(0))
result = rnn2ff.distill(
    network, rnn2ff.uniform_stimuli(20), width=0, num_sweeps=5, num_samples=2000, num_steps=300, key=jr.key(1)
)
print(result)

# %% Integer-only
# Scales are set by stimuli from the distribution of use. `predict` is the exact twin of the header.
calibration = result.test.stimuli[:500]
for weight_bits in (8, 16):
    model = rnn2ff.quantize(result.approximator, calibration, weight_bits=weight_bits)
    judged = rnn2ff.accuracy(model.predict(result.test.stimuli), result.test.rates)
    print(f"{weight_bits}-bit weights: {judged.nrmse:.2%} in all")

# %% The bound
# The bound is that of the integer model, which computes exactly what the header does, for each given stimulus.
deployed = np.asarray(rnn2ff.data.sample_stimuli(rnn2ff.uniform_stimuli(20), 300, key=jr.key(2)))
rates = model.predict(deployed)
certificates = rnn2ff.certify_predictions(network, deployed, rates)
unit_bounds = rnn2ff.bound_units(network, deployed, rates, certificates.error_bound)
print(certificates)
print(f"no rate of any stimulus is off by more than {unit_bounds.max():.4f}; the largest rate is {rates.max():.2f}")

# %% The header
# The comment on top names the network, the error, the range and the flash. The self-test compares four stimuli.
card = rnn2ff.model_card(network, calibration, result.report)
header = rnn2ff.to_c(model, name="settle", card=card, test_stimuli=calibration)
(folder / "settle.h").write_text(header)
print(header[: header.index("*/") + 2])

# %% The bound in C
# For networks with a provably unique fixed point, `bound_to_c` writes a function that bounds the error on the device.
(folder / "bound.h").write_text(rnn2ff.bound_to_c(network, name="bound"))

# %% On this machine
# If there is a C compiler, both run here; a microcontroller uses the same files.
program = """
#define SETTLE_SELF_TEST
#include <stdio.h>
#include "settle.h"
#include "bound.h"
int main(void) {
    float stimulus[SETTLE_STIMULUS_SIZE], rates[SETTLE_RATE_SIZE];
    int16_t in[SETTLE_STIMULUS_SIZE], out[SETTLE_RATE_SIZE];
    for (int i = 0; i < SETTLE_STIMULUS_SIZE; i++) { stimulus[i] = 0.5f; in[i] = settle_quantized(0.5f); }
    settle_predict(in, out);
    for (int i = 0; i < SETTLE_RATE_SIZE; i++) rates[i] = out[i] * SETTLE_RATE_SCALE;
    printf("wrong in the self-test: %d; bound of a new answer: %.4f\\n", settle_self_test(), bound(stimulus, rates));
    return 0;
}
"""
(folder / "main.c").write_text(program)
if compiler := shutil.which("cc"):
    subprocess.run([compiler, "-std=c99", "-O2", "main.c", "-lm", "-o", "main"], cwd=folder, check=True)
    print(subprocess.run([folder / "main"], check=True, capture_output=True, text=True).stdout, end="")
