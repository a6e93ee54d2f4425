/* The number of channels of a stimulus that are outside the range of the stimuli it was made for: 0 if none is. */
static inline int ${name}_num_outside(const $signal *stimulus)
{
    ${low}    ${high}    int count = 0;
    for (int i = 0; i < ${NAME}_STIMULUS_SIZE; i++) {
        count += !(stimulus[i] >= low[i] && stimulus[i] <= high[i]); /* NaN is outside */
    }
    return count;
}
