"""The precision of a model's products, in parameters and in all that has their structure."""

from typing import Any

import jax

import iwae_jax
from iwae_jax import models


def in_precision(tree: Any, precision: str) -> Any:
    """The same with another precision of the products of all parameters in it: Adam's means are some too.

    A model of one's own has none, and stays as it is.
    """

    def change(node: Any) -> Any:
        known = isinstance(node, iwae_jax.Params) and isinstance(node.model, iwae_jax.ModelConfig)
        return models.in_precision(node, precision) if known else node

    return jax.tree.map(change, tree, is_leaf=lambda node: isinstance(node, iwae_jax.Params))
