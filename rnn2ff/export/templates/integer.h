static inline int16_t ${name}_saturate(int64_t value)
{
    return (int16_t)(value > 32767 ? 32767 : value < -32767 ? -32767 : value);
}

/* sum * multiplier / 2^shift, rounded to the nearest, halves away from zero, saturating. */
static inline int16_t ${name}_rescale(int64_t sum, int32_t multiplier, int shift)
{
    int64_t product = sum * multiplier;
    int64_t half = (int64_t)1 << (shift - 1);
    return ${name}_saturate(product < 0 ? -((half - product) >> shift) : (half + product) >> shift);
}

/* output = rescaled(weights input + bias), or that added to the output. */
static inline void ${name}_layer(const int${weight_bits}_t *weights, const int32_t *bias, const int16_t *multipliers,
                                 const int8_t *shifts, int rows, int columns, const int16_t *input, int16_t *output,
                                 int adds)
{
    for (int i = 0; i < rows; i++) {
        int64_t sum = bias[i];
        for (int j = 0; j < columns; j++) {
            sum += (int32_t)weights[i * columns + j] * input[j];
        }
        sum = ${name}_rescale(sum, multipliers[i], shifts[i]);
        output[i] = adds ? ${name}_saturate(output[i] + sum) : (int16_t)sum;
    }
}

/* The rates for one stimulus. */
static inline void ${name}_predict(const int16_t *stimulus, int16_t *rates)
{
    int16_t hidden[${NAME}_HIDDEN_SIZE];
    int16_t state[${NAME}_STATE_SIZE];

    ${name}_layer(${name}_hidden_weights, ${name}_hidden_bias, ${name}_hidden_multipliers, ${name}_hidden_shifts,
                  ${NAME}_HIDDEN_SIZE, ${NAME}_STIMULUS_SIZE, stimulus, hidden, 0);
    for (int i = 0; i < ${NAME}_HIDDEN_SIZE; i++) {
        hidden[i] = hidden[i] < 0 ? 0 : hidden[i];
    }
    ${name}_layer(${name}_readout_weights, ${name}_readout_bias, ${name}_readout_multipliers, ${name}_readout_shifts,
                  ${NAME}_STATE_SIZE, ${NAME}_HIDDEN_SIZE, hidden, state, 0);
#if ${NAME}_HAS_BYPASS
    ${name}_layer(${name}_bypass_weights, ${name}_bypass_bias, ${name}_bypass_multipliers, ${name}_bypass_shifts,
                  ${NAME}_STATE_SIZE, ${NAME}_STIMULUS_SIZE, stimulus, state, 1);
#endif
#if ${NAME}_NUM_SWEEPS
    int16_t drive[${NAME}_STATE_SIZE];
    int16_t rest[${NAME}_STATE_SIZE];
    int16_t target[${NAME}_STATE_SIZE];
    int16_t before[${NAME}_STATE_SIZE];

    ${name}_layer(${name}_drive_weights, ${name}_drive_bias, ${name}_drive_multipliers, ${name}_drive_shifts,
                  ${NAME}_STATE_SIZE, ${NAME}_STIMULUS_SIZE, stimulus, drive, 0);
    for (int i = 0; i < ${NAME}_STATE_SIZE; i++) {
        state[i] = ${name}_saturate((int64_t)state[i] + drive[i]);
        before[i] = state[i];
    }
    for (int sweep = 0; sweep < ${NAME}_NUM_SWEEPS; sweep++) {
        const int32_t *steps = &${name}_steps[sweep * ${NAME}_STATE_SIZE];
        const int32_t *momenta = &${name}_momenta[sweep * ${NAME}_STATE_SIZE];
        for (int i = 0; i < ${NAME}_STATE_SIZE; i++) {
            int32_t gain = state[i] > 0 ? ${name}_positive_gains[i] : ${name}_negative_gains[i];
            rest[i] = ${name}_rescale((int64_t)state[i] * gain, 1, $gain_bits);
            target[i] = drive[i];
        }
        ${name}_layer(${name}_recurrent_weights, ${name}_recurrent_bias, ${name}_recurrent_multipliers,
                      ${name}_recurrent_shifts, ${NAME}_STATE_SIZE, ${NAME}_STATE_SIZE, rest, target, 1);
        for (int i = 0; i < ${NAME}_STATE_SIZE; i++) {
            int64_t change = (int64_t)steps[i] * (target[i] - state[i])
                             + (int64_t)momenta[i] * (state[i] - before[i]);
            before[i] = state[i];
            state[i] = ${name}_saturate((int64_t)state[i] + ${name}_rescale(change, 1, $step_bits));
        }
    }
#endif
    for (int i = 0; i < ${NAME}_RATE_SIZE; i++) {
        rates[i] = ${NAME}_IS_RECTIFIED && state[i] < 0 ? 0 : state[i];
    }
}

/* For machines that have floating point: a stimulus in its own units as one of whole units, and back for a rate. */
static inline int16_t ${name}_quantized(float stimulus)
{
    float units = stimulus * (1.0f / ${NAME}_STIMULUS_SCALE);
    if (!(units > -32767.0f)) {
        return -32767;
    }
    return (int16_t)(units >= 32767.0f ? 32767.0f : units + (units < 0.0f ? -0.5f : 0.5f));
}

static inline float ${name}_rate(int16_t units)
{
    return (float)units * ${NAME}_RATE_SCALE;
}
