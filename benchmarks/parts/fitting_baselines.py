"""Other methods that a user might choose to predict rates from stimuli, besides the trained networks of this library.

All but the sweeps take stimuli and rates to fit, fresh stimuli, and a width, and return the rates they predict for the
fresh ones.
"""

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from rnn2ff.approximators import Refined, TwoLayer, predict
from rnn2ff.training import Trainer, fit_readout, initialize_refined


def perceptron(stimuli: np.ndarray, rates: np.ndarray, fresh: np.ndarray, width: int) -> np.ndarray:
    """Scikit-learn's two-layer network, which stops when its validation score no longer improves."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor
    from sklearn.utils._testing import ignore_warnings

    model = MLPRegressor(
        hidden_layer_sizes=(width,), learning_rate_init=3e-3, early_stopping=True, max_iter=40, random_state=0
    )
    return ignore_warnings(category=ConvergenceWarning)(model.fit)(stimuli, rates).predict(fresh)


def random_features(stimuli: np.ndarray, rates: np.ndarray, fresh: np.ndarray, width: int) -> np.ndarray:
    """Random hidden units, and the best readout."""
    start = TwoLayer(stimuli.shape[1], width, rates.shape[1], is_rectified=False, key=jr.key(0))
    fitted = fit_readout(start, [(stimuli / stimuli.std(), rates)])
    return np.asarray(predict(fitted, jnp.asarray(fresh / stimuli.std())))


def linear_map(stimuli: np.ndarray, rates: np.ndarray, fresh: np.ndarray, width: int) -> np.ndarray:
    """The best affine map."""
    del width
    with_one = [np.c_[array, np.ones(len(array))] for array in (stimuli, fresh)]
    return with_one[1] @ np.linalg.lstsq(with_one[0], rates, rcond=1e-6)[0]


def nearest_neighbors(stimuli: np.ndarray, rates: np.ndarray, fresh: np.ndarray, width: int) -> np.ndarray:
    """The mean over the ten nearest neighbors, weighted by one over the distance."""
    from sklearn.neighbors import KNeighborsRegressor

    del width
    return KNeighborsRegressor(10, weights="distance").fit(stimuli, rates).predict(fresh)


def untrained_sweeps(trainer: Trainer, num_products: int) -> Refined | None:
    """As many sweeps as this number of products allows, without hidden units or training; None if it allows none."""
    num_sweeps = num_products // trainer.network.state_size**2 - 1
    if num_sweeps < 1:
        return None
    states, stimuli = trainer.kept.states, trainer.kept.stimuli
    return initialize_refined(trainer.network, states, stimuli, 0, num_sweeps=num_sweeps, key=trainer.key)
