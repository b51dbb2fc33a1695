"""The public bound, and its gradient estimators.

The parameters of a model reach a log-weight by three routes: directly through log p(x, z), through z, and
directly through log q(z | x). An estimator is an array of per-sample coefficients for each route. In the
table V is the objective, l = log_w of one datum, c = dV/dl, h the diagonal of V's Hessian, v the
normalised weights, and s is V minus a leave-one-out baseline.

| estimator | p: through log p(x, z) | z: through z into log p - log q | q: through log q(z given x) |
|---|---|---|---|
| reparam | c | c | -c |
| stl | c | c | 0 |
| dreg | c | c - h | 0 |
| gdreg | c, and the priors' parameters through z | c - h | 0 |
| rws | c | 0 | v |
| rws_dreg | c | v (1 - v) | 0 |
| wake_sleep | c | 0 | 0, and log q of one (x, z) drawn from the model |
| vimco, score | c | 0 | s - c |

`resampled` runs any of them backward on few samples, `chunked` on all of them, a few at a time; `ByRoute`
takes route p from one and routes z and q from another.
"""

from iwae_jax.gradients.bound import (
    bound,
    check_pair,
    check_tempered,
    check_weight,
    samples_kept,
)
from iwae_jax.gradients.estimator import Coefficients, Estimator, Needs
from iwae_jax.gradients.mixing import ByRoute, Chunked, Resampled, chunked, resampled
from iwae_jax.gradients.names import DEFAULT, DISCRETE, NAMES, PATHWISE, named
from iwae_jax.gradients.path import STL, DReG
from iwae_jax.gradients.prior import GDReG
from iwae_jax.gradients.reparam import Reparam
from iwae_jax.gradients.score import VIMCO, Score
from iwae_jax.gradients.wake import RWS, RWSDReG, WakeSleep

__all__ = [
    "DEFAULT",
    "DISCRETE",
    "NAMES",
    "PATHWISE",
    "RWS",
    "STL",
    "VIMCO",
    "ByRoute",
    "Chunked",
    "Coefficients",
    "DReG",
    "Estimator",
    "GDReG",
    "Needs",
    "RWSDReG",
    "Reparam",
    "Resampled",
    "Score",
    "WakeSleep",
    "bound",
    "check_pair",
    "check_tempered",
    "check_weight",
    "chunked",
    "named",
    "resampled",
    "samples_kept",
]
