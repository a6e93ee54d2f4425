/* output = weights input + bias; without a bias the sums are added to the output. */
static inline void ${name}_layer(const float *weights, const float *bias, int rows, int columns,
                                 const float *input, float *output)
{
    for (int i = 0; i < rows; i++) {
        float sum = bias ? bias[i] : output[i];
        for (int j = 0; j < columns; j++) {
            sum += weights[i * columns + j] * input[j];
        }
        output[i] = sum;
    }
}

static inline float ${name}_rectified(float value)
{
    return value < 0.0f ? 0.0f : value; /* NaN stays NaN */
}

/* The rates for one stimulus. */
static inline void ${name}_predict(const float *stimulus, float *rates)
{
    float hidden[${NAME}_HIDDEN_SIZE];
    float state[${NAME}_STATE_SIZE];

    ${name}_layer(${name}_hidden_weights, ${name}_hidden_bias, ${NAME}_HIDDEN_SIZE, ${NAME}_STIMULUS_SIZE,
                  stimulus, hidden);
    for (int i = 0; i < ${NAME}_HIDDEN_SIZE; i++) {
        hidden[i] = ${name}_rectified(hidden[i]);
    }
    ${name}_layer(${name}_readout_weights, ${name}_readout_bias, ${NAME}_STATE_SIZE, ${NAME}_HIDDEN_SIZE,
                  hidden, state);
#if ${NAME}_HAS_BYPASS
    ${name}_layer(${name}_bypass_weights, 0, ${NAME}_STATE_SIZE, ${NAME}_STIMULUS_SIZE, stimulus, state);
#endif
#if ${NAME}_NUM_SWEEPS
    float drive[${NAME}_STATE_SIZE];
    float rest[${NAME}_STATE_SIZE];
    float target[${NAME}_STATE_SIZE];
    float before[${NAME}_STATE_SIZE];

    ${name}_layer(${name}_drive_weights, ${name}_drive_bias, ${NAME}_STATE_SIZE, ${NAME}_STIMULUS_SIZE,
                  stimulus, drive);
    for (int i = 0; i < ${NAME}_STATE_SIZE; i++) {
        state[i] += drive[i];
        before[i] = state[i];
    }
    for (int sweep = 0; sweep < ${NAME}_NUM_SWEEPS; sweep++) {
        const float *steps = &${name}_steps[sweep * ${NAME}_STATE_SIZE];
        const float *momenta = &${name}_momenta[sweep * ${NAME}_STATE_SIZE];
        for (int i = 0; i < ${NAME}_STATE_SIZE; i++) {
            rest[i] = ${name}_rectified(state[i]) - ${name}_slopes[i] * state[i];
        }
        ${name}_layer(${name}_recurrent_weights, drive, ${NAME}_STATE_SIZE, ${NAME}_STATE_SIZE, rest, target);
        for (int i = 0; i < ${NAME}_STATE_SIZE; i++) {
            float next = state[i] + steps[i] * (target[i] - state[i])
                         + momenta[i] * (state[i] - before[i]);
            before[i] = state[i];
            state[i] = next;
        }
    }
#endif
    for (int i = 0; i < ${NAME}_RATE_SIZE; i++) {
        rates[i] = ${NAME}_IS_RECTIFIED ? ${name}_rectified(state[i]) : state[i];
    }
}
