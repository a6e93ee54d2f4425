"""Which factorizations of a program XLA may run at the same time."""

import math

import jax

_FACTORS = ("lu", "cholesky", "triangular_solve", "qr", "geqrf", "householder_product", "svd", "eig", "eigh", "schur")


def pairs_at_once(function, *args):
    """Pairs of factorizations, or of parts with one in them, neither of which waits for the other; by name."""
    return _pairs(jax.make_jaxpr(function)(*args).jaxpr)


def largest_batch(function, *args):
    """The most matrices that are factored together; 0 without any."""
    return _largest(jax.make_jaxpr(function)(*args).jaxpr)


def _largest(jaxpr):
    sizes = [0]
    for equation in jaxpr.eqns:
        if equation.primitive.name in _FACTORS:
            sizes.append(math.prod(equation.invars[0].aval.shape[:-2]))
        sizes += [_largest(part) for value in equation.params.values() for part in _jaxprs(value)]
    return max(sizes)


def _pairs(jaxpr):
    found, waits_for, chosen = [], {}, []
    for place, equation in enumerate(jaxpr.eqns):
        inner = [part for value in equation.params.values() for part in _jaxprs(value)]
        found += [pair for part in inner for pair in _pairs(part)]
        before = set()
        for variable in equation.invars:
            before |= waits_for.get(id(variable), set())
        if equation.primitive.name in _FACTORS or any(map(_has_factors, inner)):
            found += [
                (jaxpr.eqns[other].primitive.name, equation.primitive.name) for other in chosen if other not in before
            ]
            chosen.append(place)
            before = before | {place}
        for variable in equation.outvars:
            waits_for[id(variable)] = before
    return found


def _has_factors(jaxpr):
    inner = (part for equation in jaxpr.eqns for value in equation.params.values() for part in _jaxprs(value))
    return any(equation.primitive.name in _FACTORS for equation in jaxpr.eqns) or any(map(_has_factors, inner))


def _jaxprs(value):
    values = value if isinstance(value, tuple | list) else (value,)
    return [getattr(each, "jaxpr", each) for each in values if hasattr(getattr(each, "jaxpr", each), "eqns")]
