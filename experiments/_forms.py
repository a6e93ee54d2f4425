"""The two forms of approximator that every claim is shown for; needs no JAX, as figures need none."""

TWO_LAYERS, WITH_SWEEPS = FORMS = ("two layers", "with sweeps")
