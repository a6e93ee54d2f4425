/* $name: a feed-forward network for the steady rates of a recurrent one, $arithmetic.
 *
 * Written by rnn2ff $version. Plain C99, a single header: no malloc, no library, and the same
 * $num_products products whatever the stimulus. $flash_bytes bytes of constants, $ram_bytes bytes of stack.
 *
 *     $signal stimulus[${NAME}_STIMULUS_SIZE] = {...}, rates[${NAME}_RATE_SIZE];
 *     ${name}_predict(stimulus, rates);
$notes */
#ifndef ${NAME}_H
#define ${NAME}_H

$includes#define ${NAME}_STIMULUS_SIZE $stimulus_size
#define ${NAME}_HIDDEN_SIZE $width
#define ${NAME}_STATE_SIZE $state_size
#define ${NAME}_RATE_SIZE $rate_size
#define ${NAME}_HAS_BYPASS $has_bypass
#define ${NAME}_IS_RECTIFIED $is_rectified
#define ${NAME}_NUM_SWEEPS $num_sweeps
$scales
$arrays
$code
$extras#endif
