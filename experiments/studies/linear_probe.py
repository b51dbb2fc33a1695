"""A linear classifier of labels, as a measure of what features hold."""

from typing import Any

import numpy as np


def classifier() -> Any:
    """Logistic regression on standardised features, not fitted yet."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1))


def accuracy(
    fit_to: np.ndarray, labels: np.ndarray, tried_on: np.ndarray, test_labels: np.ndarray
) -> dict[str, float]:
    """The accuracy on other data than those fitted to, with Wilson's 95% interval."""
    right = int(np.sum(classifier().fit(fit_to, labels).predict(tried_on) == test_labels))
    low, high = wilson(right, len(tried_on))
    return {"accuracy": right / len(tried_on), "low": low, "high": high}


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a proportion."""
    from scipy.stats import binomtest

    interval = binomtest(right, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
