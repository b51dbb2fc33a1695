"""Published results: NLL in nats, and active units of each layer.

Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders (2016), Table 1.
"""

from typing import NamedTuple


class Result(NamedTuple):
    """A cell of Table 1."""

    nll: float
    active: tuple[int, ...]


TABLE_1: dict[tuple[str, str, int, int], Result] = {
    (dataset, objective, layers, k): Result(nll, active)
    for dataset, objective, layers, cells in (
        ("mnist", "vae", 1, {1: (86.76, (19,)), 5: (86.47, (20,)), 50: (86.35, (20,))}),
        ("mnist", "iwae", 1, {1: (86.76, (19,)), 5: (85.54, (22,)), 50: (84.78, (25,))}),
        ("mnist", "vae", 2, {1: (85.33, (16, 5)), 5: (85.01, (17, 5)), 50: (84.78, (17, 5))}),
        ("mnist", "iwae", 2, {1: (85.33, (16, 5)), 5: (83.89, (21, 5)), 50: (82.90, (26, 7))}),
        ("omniglot", "vae", 1, {1: (108.11, (28,)), 5: (107.62, (28,)), 50: (107.80, (28,))}),
        ("omniglot", "iwae", 1, {1: (108.11, (28,)), 5: (106.12, (34,)), 50: (104.67, (41,))}),
        ("omniglot", "vae", 2, {1: (107.58, (28, 4)), 5: (106.31, (30, 5)), 50: (106.30, (30, 5))}),
        (
            "omniglot",
            "iwae",
            2,
            {1: (107.56, (29, 4)), 5: (104.79, (38, 6)), 50: (103.38, (44, 7))},
        ),
    )
    for k, (nll, active) in cells.items()
}
"""By (dataset, objective, stochastic layers, k)."""

IMAGES = {
    "mnist": (59_600, 10_000),
    "omniglot": (23_000, 8_070),
    "binarized_mnist": (50_000, 10_000),
}
"""Training and test images of the paper's protocol."""

_FIXED_BINARIZATION = {1: 88.71, 5: 87.63, 50: 87.10}


def published(dataset: str, objective: str, layers: int, k: int) -> Result | None:
    """The paper's result for a cell; None for a cell that the paper lacks."""
    if (dataset, objective, layers) == ("binarized_mnist", "iwae", 1):
        nll = _FIXED_BINARIZATION.get(k)
        return None if nll is None else Result(nll, ())  # without active units
    return TABLE_1.get((dataset, objective, layers, k))


TABLE_2 = {
    ("vae", 1, "iwae", 50): (Result(86.76, (19,)), Result(84.88, (22,))),
    ("iwae", 50, "vae", 1): (Result(84.78, (25,)), Result(86.02, (23,))),
}
"""Before and after, by (first objective, its k, second objective, its k): MNIST, one layer."""
