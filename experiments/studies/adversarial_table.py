"""Printed results of the study of a DCGAN and an IWAE."""

from typing import Any

from experiments.shared.system.display import console, print_table
from experiments.studies.annealing_run import warn_of_few


def print_results(results: dict[str, Any]) -> None:
    """The tables of likelihoods, of dropped maps and of linear classifiers, each if there is one."""
    print_table(
        f"annealed log p(x) of test images, normal pixels of scale {results['observation_scale']:g}, nats",
        ("", "log p(x)", "± samples", "± images", "effective sample size", "gap, simulated data"),
        [
            (
                row["model"], f"{row['log_p']:.1f}", f"{row['monte_carlo_error']:.2f}",
                f"{row['split_error']:.1f}", f"{row['effective_sample_size']:.1f}",
                f"{row['gap']:.2f} ± {row['gap_standard_error']:.2f}",
            )
            for row in results["likelihoods"]
        ],
    )  # fmt: skip
    for row in results["likelihoods"]:
        warn_of_few(f"{row['model']}: ", row["effective_sample_size"], results["path"]["chains"])
    gain = results["iwae_minus_gan"]
    console.print(
        f"IWAE minus DCGAN, paired by image: {gain['mean']:.1f} ± {gain['standard_error']:.1f} nats"
    )
    if results["dropping"]:
        print_table(
            "images with a loop, as maps of the last hidden layer are dropped",
            ("", "dropped", "loops before", "after", "ink left", "as many random maps", "as little ink"),
            [
                (
                    row["model"], f"{row['dropped']} of {row['maps']}", f"{row['loops_before']:.1%}",
                    f"{row['loops_after']:.1%}", f"{row['ink_left']:.0%}",
                    f"{row['loops_after_as_many']:.1%}", f"{row['loops_after_as_much_ink']:.1%}",
                )
                for row in results["dropping"]
            ],
        )  # fmt: skip
    if results["probes"]:
        print_table(
            "linear classifier of the labels",
            ("features", "number", "accuracy", "95% interval"),
            [
                (
                    row["features"], f"{row['size']:,}", f"{row['accuracy']:.1%}",
                    f"{row['low']:.1%} to {row['high']:.1%}",
                )
                for row in results["probes"]
            ],
        )  # fmt: skip
