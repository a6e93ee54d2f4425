#ifdef ${NAME}_SELF_TEST
$stimuli
$rates
/* The number of rates that differ from those when this header was written: 0 if all are right. */
static inline int ${name}_self_test(void)
{
    int wrong = 0;
    for (int i = 0; i < $num_stimuli; i++) {
        const $kind *expected = &${name}_test_rates[i * ${NAME}_RATE_SIZE];
        $kind rates[${NAME}_RATE_SIZE];
        ${name}_predict(&${name}_test_stimuli[i * ${NAME}_STIMULUS_SIZE], rates);
        for (int j = 0; j < ${NAME}_RATE_SIZE; j++) {
            wrong += $is_wrong;
        }
    }
    return wrong;
}
#endif
