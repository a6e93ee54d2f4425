/* $name: how far predicted rates are from the steady rates of a recurrent network, proved at run time.
 *
 * Written by rnn2ff $version, of the network $hash. Plain C99, a single header; of the library it needs sqrt.
 * $flash_bytes bytes of constants. In double precision, which takes its time on a machine without it. Compile it without
 * options such as -ffast-math, which round as they like.
 *
 *     double bound = ${name}(stimulus, rates);    the rates of all units, from any approximator
 *
 * The Euclidean distance of the rates to the only fixed point of the network is at most this, rounding included, whatever
 * the stimulus. It is infinite for what is not finite.
 */
#ifndef ${NAME}_H
#define ${NAME}_H

#include <math.h>

#define ${NAME}_STIMULUS_SIZE $stimulus_size
#define ${NAME}_STATE_SIZE $state_size
#define ${NAME}_HAS_STIMULUS_WEIGHTS $has_stimulus_weights
#define ${NAME}_NETWORK_HASH "$hash"

$arrays
static inline double ${name}(const float *stimulus, const float *rates)
{
    /* A sum of n products is off by at most n eps times the sum of absolute values; the 8 are for what else is added. */
    const double eps = 2.220446049250313e-16 * (${NAME}_STATE_SIZE + ${NAME}_STIMULUS_SIZE + 8);
    double error[${NAME}_STATE_SIZE], rounding[${NAME}_STATE_SIZE];
    double squares = 0.0, weighted = 0.0, largest = 0.0, bound = INFINITY;

    for (int i = 0; i < ${NAME}_STATE_SIZE; i++) {
        double total = ${name}_bias[i], size = fabs(total);
        for (int j = 0; j < ${NAME}_STATE_SIZE; j++) {
            double term = (double)${name}_recurrent_weights[i * ${NAME}_STATE_SIZE + j] * rates[j];
            total += term;
            size += fabs(term);
        }
#if ${NAME}_HAS_STIMULUS_WEIGHTS
        for (int j = 0; j < ${NAME}_STIMULUS_SIZE; j++) {
            double term = (double)${name}_stimulus_weights[i * ${NAME}_STIMULUS_SIZE + j] * stimulus[j];
            total += term;
            size += fabs(term);
        }
#else
        total += stimulus[i];
        size += fabs((double)stimulus[i]);
#endif
        error[i] = rates[i] - (total > 0.0 ? total : 0.0);
        rounding[i] = eps * (size + fabs((double)rates[i]));
        squares += (fabs(error[i]) + rounding[i]) * (fabs(error[i]) + rounding[i]);
    }
    for (int i = 0; i < ${NAME}_STATE_SIZE; i++) {
        double pushed = 0.0, slack = 0.0;
        for (int j = 0; j < ${NAME}_STATE_SIZE; j++) {
            double weight = ${name}_recurrent_weights[i * ${NAME}_STATE_SIZE + j];
            pushed += weight * error[j];
            slack += fabs(weight) * (rounding[j] + eps * fabs(error[j]));
        }
        pushed = fabs(pushed) + slack;
        double scaled = pushed / ${name}_contraction_scale[i];
        largest = scaled > largest ? scaled : largest;
        pushed *= ${name}_metric_root[i];
        weighted += pushed * pushed;
    }
    /* What underflows is less than 1e-150; the factor covers the few operations on norms, and their sums. */
    const double margin = 1.0 + 16.0 * eps;
#if $is_contracting
    double contraction = sqrt(squares) + $contraction_factor * largest;
    bound = contraction < bound ? contraction : bound;
#endif
#if $is_monotone
    double monotonicity = sqrt(squares) + $monotonicity_factor * sqrt(weighted);
    bound = monotonicity < bound ? monotonicity : bound;
#endif
    bound = bound * margin + 1e-150;
    return squares < INFINITY && weighted < INFINITY ? bound : INFINITY; /* not so if one is NaN, either */
}

#endif
