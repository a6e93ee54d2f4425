"""An integer-only approximator: 8-bit or 16-bit weights, 16-bit signals, no floating point in between.

This is the model that the integer C header computes, bit for bit. A weight matrix has one scale for each row, a signal
has one scale; sums are kept in 64 bits and brought back to 16 by a 15-bit multiplier and a shift,

    rescale(sum) = round(sum * multiplier / 2^shift), halves away from zero, saturating at +-32767.

16-bit signals cost a few bytes of memory and no flash, and leave the rounding of the weights as the dominant error;
this is the "16x8" scheme of LiteRT and CMSIS-NN. With 16-bit weights, for twice the flash, the error is small.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float, Int, Int8, Int16, Int32

from rnn2ff._checks import check_stimuli, fail
from rnn2ff.approximators import Approximator
from rnn2ff.export.plain import Plain, plain_arrays
from rnn2ff.records import readable

LARGEST = 32767  # of a 16-bit signal; -32768 is not used, so that the range is symmetric
HEADROOM = 2.0  # signals up to this many times the largest of the calibration do not saturate
GAIN_BITS = 15  # fractional bits of the gains of single units, between 0 and 1
STEP_BITS = 14  # fractional bits of the step and the momentum of a sweep
_WEIGHT_TYPES = {8: np.int8, 16: np.int16}
_LARGEST_BIAS = 2**30  # half the range of 32 bits
_LARGEST_SHIFT = 46  # 14 + 32: multipliers have all their 15 bits for ratios of scales down to 2^-32


class IntegerLayer(NamedTuple):
    """A matrix product: `rescale(weights @ signal + bias)`, row by row."""

    weights: Int8[np.ndarray, "out in"] | Int16[np.ndarray, "out in"]  # of 8 or 16 bits
    bias: Int32[np.ndarray, " out"]  # added to the sums, in their units
    multipliers: Int16[np.ndarray, " out"]  # 15-bit factors
    shifts: Int8[np.ndarray, " out"]  # powers of two to divide by

    def __call__(self, signals: Int16[np.ndarray, "batch in"]) -> Int16[np.ndarray, "batch out"]:
        """The layer's output for a batch."""
        # Every sum is below 2^53, so that the fast product of float64 is exact.
        sums = (signals.astype(np.float64) @ self.weights.T.astype(np.float64)).astype(np.int64)
        return rescale(sums + self.bias, self.multipliers, self.shifts)


class IntegerSweeps(NamedTuple):
    """The sweeps that refine the pass, in units of the state."""

    drive: IntegerLayer  # from the stimulus
    recurrent: IntegerLayer  # from the rest to the state
    positive_gains: Int32[np.ndarray, " state"]  # `1 - D`, of the rest where the state is positive
    negative_gains: Int32[np.ndarray, " state"]  # `-D`, elsewhere
    steps: Int32[np.ndarray, "sweep state"]  # one row per sweep
    momenta: Int32[np.ndarray, "sweep state"]  # one row per sweep


@readable
class IntegerModel(NamedTuple):
    """An integer-only approximator; made by `quantize`.

    Attributes:
        stimulus_scale: the stimulus that one unit of a quantized stimulus stands for.
        rate_scale: the rate that one unit of a quantized rate stands for.
        hidden: from the stimulus to the hidden units.
        readout: from the hidden units to the state.
        bypass: from the stimulus to the state, or None.
        sweeps: the sweeps that refine the pass, or None.
        is_rectified: whether the rates are rectified.
        rate_size: number of rates.
    """

    stimulus_scale: float
    rate_scale: float
    hidden: IntegerLayer
    readout: IntegerLayer
    bypass: IntegerLayer | None
    sweeps: IntegerSweeps | None
    is_rectified: bool
    rate_size: int

    def _describe(self) -> tuple[str, dict[str, object]]:
        title = f"IntegerModel, {self.stimulus_size} channels to {self.rate_size} rates"
        return title, {
            "hidden units": len(self.hidden.weights),
            "sweeps": 0 if self.sweeps is None else len(self.sweeps.steps),
            "one unit of a stimulus": f"{self.stimulus_scale:.4g}",
            "one unit of a rate": f"{self.rate_scale:.4g}",
        }

    @property
    def stimulus_size(self) -> int:
        """Number of stimulus channels."""
        return self.hidden.weights.shape[1]

    def predict(self, stimuli: Float[ArrayLike, "batch stimulus"]) -> Float[np.ndarray, "batch rate"]:
        """The rates for a batch of stimuli, quantized on the way in and scaled on the way out.

        Raises:
            ValueError: if the stimuli do not fit.
        """
        check_stimuli(stimuli, self.stimulus_size)
        return self(self.quantize_stimuli(stimuli)) * np.float32(self.rate_scale)

    def quantize_stimuli(self, stimuli: Float[ArrayLike, "batch stimulus"]) -> Int16[np.ndarray, "batch stimulus"]:
        """Stimuli in integer units, as the C header rounds them: in float32, halves away from zero."""
        units = np.asarray(stimuli, np.float32) * np.float32(1 / self.stimulus_scale)
        units = np.clip(units, np.float32(-LARGEST), np.float32(LARGEST))
        return np.trunc(units + np.copysign(np.float32(0.5), units)).astype(np.int16)

    def __call__(self, stimuli: Int16[np.ndarray, "batch stimulus"]) -> Int16[np.ndarray, "batch rate"]:
        """Quantized rates for quantized stimuli, in integers throughout."""
        hidden = np.maximum(self.hidden(stimuli), 0)
        state = self.readout(hidden)
        if self.bypass is not None:
            state = _saturate(_wide(state) + self.bypass(stimuli))
        if self.sweeps is not None:
            state = self._sweep(stimuli, state)
        rates = state[:, : self.rate_size]
        return np.maximum(rates, 0) if self.is_rectified else rates

    def _sweep(self, stimuli: np.ndarray, state: np.ndarray) -> np.ndarray:
        """All sweeps."""
        sweeps = self.sweeps
        drive = sweeps.drive(stimuli)
        before = state = _saturate(_wide(drive) + state)
        for step, momentum in zip(sweeps.steps, sweeps.momenta):
            gains = np.where(state > 0, sweeps.positive_gains, sweeps.negative_gains)
            rest = rescale(_wide(state) * gains, 1, GAIN_BITS)
            target = _saturate(_wide(drive) + sweeps.recurrent(rest))
            change = _wide(step) * (_wide(target) - state) + _wide(momentum) * (_wide(state) - before)
            before, state = state, _saturate(_wide(state) + rescale(change, 1, STEP_BITS))
        return state


def rescale(
    sums: Int[np.ndarray, "*batch out"], multipliers: Int[ArrayLike, "..."], shifts: Int[ArrayLike, "..."]
) -> Int16[np.ndarray, "*batch out"]:
    """`sums * multipliers / 2^shifts`, rounded to the nearest, halves away from zero, saturating at 16 bits."""
    products = _wide(sums) * multipliers
    shifts = np.asarray(shifts, np.int64)
    # In C, the right shift of a negative number depends on the compiler, so shift its absolute value.
    rounded = (np.abs(products) + (np.int64(1) << (shifts - 1))) >> shifts
    return _saturate(np.sign(products) * rounded)


def _wide(signal: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    return np.asarray(signal, np.int64)


def _saturate(signal: Int[np.ndarray, "..."]) -> Int16[np.ndarray, "..."]:
    return np.clip(signal, -LARGEST, LARGEST).astype(np.int16)


def quantize(
    approximator: Approximator, stimuli: Float[ArrayLike, "batch stimulus"], *, weight_bits: int = 8
) -> IntegerModel:
    """Quantize an approximator to integer arithmetic.

    Args:
        approximator: what to quantize.
        stimuli: one per row, from the distribution of use: they set the ranges of all signals, with a safety factor
            of 2. Signals beyond the range saturate.
        weight_bits: 8, or 16, which takes twice the flash and adds hardly any error.

    Raises:
        ValueError: if the stimuli do not fit or are all zero, the weights span too large a range for their bits, or the
            bits are neither 8 nor 16.

    Example:
        An integer-only header, and its exact equivalent in NumPy:

            model = rnn2ff.quantize(approximator, stimuli, weight_bits=16)
            Path("settle.h").write_text(rnn2ff.to_c(model, name="settle"))
            rates = model.predict(stimuli)
    """
    if weight_bits not in _WEIGHT_TYPES:
        raise fail("weight_bits", "is out of range", "8 or 16", repr(weight_bits))
    plain = plain_arrays(approximator)
    check_stimuli(stimuli, plain.stimulus_size)
    stimuli = np.asarray(stimuli, np.float64)
    if not stimuli.any():
        raise fail("stimuli", "define no range", "a row that is not all zero", f"{len(stimuli)} rows of zeros")
    hidden, states = _ranges(plain, stimuli)
    stimulus_scale, hidden_scale, state_scale = (_scale(signal) for signal in (stimuli, hidden, states))
    to_state = (stimulus_scale, state_scale)
    layer = functools.partial(_layer, weight_type=_WEIGHT_TYPES[weight_bits])
    sweeps = plain.sweeps
    return IntegerModel(
        stimulus_scale=stimulus_scale,
        rate_scale=state_scale,
        hidden=layer(plain.hidden_weights, plain.hidden_bias, stimulus_scale, hidden_scale),
        readout=layer(plain.readout_weights, plain.readout_bias, hidden_scale, state_scale),
        bypass=None if plain.bypass_weights is None else layer(plain.bypass_weights, None, *to_state),
        sweeps=None
        if sweeps is None
        else IntegerSweeps(
            drive=layer(sweeps.drive_weights, sweeps.drive_bias, *to_state),
            recurrent=layer(sweeps.recurrent_weights, None, state_scale, state_scale),
            positive_gains=_fixed(1 - sweeps.slopes, GAIN_BITS),
            negative_gains=_fixed(-sweeps.slopes, GAIN_BITS),
            steps=_fixed(sweeps.steps, STEP_BITS),
            momenta=_fixed(sweeps.momenta, STEP_BITS),
        ),
        is_rectified=plain.is_rectified,
        rate_size=plain.rate_size,
    )


def _ranges(plain: Plain, stimuli: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All values of the hidden units, and all values in units of the state, for these stimuli."""
    hidden = np.maximum(stimuli @ plain.hidden_weights.T + plain.hidden_bias, 0)
    state = hidden @ plain.readout_weights.T + plain.readout_bias
    seen = [state]
    if plain.bypass_weights is not None:
        bypassed = stimuli @ plain.bypass_weights.T
        seen += [bypassed, state + bypassed]
        state = state + bypassed
    if plain.sweeps is not None:
        sweeps = plain.sweeps
        drive = stimuli @ sweeps.drive_weights.T + sweeps.drive_bias
        before = state = drive + state
        seen += [drive, state]
        for step, momentum in zip(sweeps.steps, sweeps.momenta):
            fed_back = (np.maximum(state, 0) - sweeps.slopes * state) @ sweeps.recurrent_weights.T
            target = drive + fed_back
            before, state = state, state + step * (target - state) + momentum * (state - before)
            seen += [fed_back, target, state]
    return hidden, np.stack(seen)


def _scale(signal: np.ndarray) -> float:
    """The value of one unit of a 16-bit signal; a float32, as in the C header."""
    largest = np.abs(signal).max()
    return float(np.float32(HEADROOM * (largest if largest > 0 else 1.0) / LARGEST))


def _layer(
    weights: np.ndarray, bias: np.ndarray | None, scale_in: float, scale_out: float, *, weight_type: type
) -> IntegerLayer:
    """A matrix product from a signal of one scale to a signal of another."""
    weights = weights.astype(np.float64)
    bias = np.zeros(len(weights)) if bias is None else bias.astype(np.float64)
    # One scale for each row, such that its weights fit in their bits and its bias in 32; arbitrary for a row of zeros.
    largest = np.iinfo(weight_type).max
    scales = np.maximum(np.abs(weights).max(axis=1) / largest, np.abs(bias) / (scale_in * _LARGEST_BIAS))
    scales = np.where(scales > 0, scales, 1.0)
    ratios = scales * scale_in / scale_out
    shifts = np.minimum(14 - np.floor(np.log2(ratios)), _LARGEST_SHIFT)  # the multiplier then fills its 15 bits
    multipliers = np.rint(ratios * 2.0**shifts)
    overflown = multipliers > LARGEST
    multipliers, shifts = np.where(overflown, np.rint(multipliers / 2), multipliers), shifts - overflown
    if shifts.min() < 1:
        expected = "outputs no smaller than the products they are summed from"
        raise fail("approximator", "cannot be held in so few bits", expected, f"a ratio of {ratios.max():.1e}")
    return IntegerLayer(
        weights=np.rint(weights / scales[:, None]).astype(weight_type),
        bias=np.rint(bias / (scales * scale_in)).astype(np.int32),
        multipliers=multipliers.astype(np.int16),
        shifts=shifts.astype(np.int8),
    )


def _fixed(values: np.ndarray, bits: int) -> Int32[np.ndarray, "..."]:
    """As integers with this many fractional bits."""
    return np.rint(np.asarray(values, np.float64) * 2**bits).astype(np.int32)
