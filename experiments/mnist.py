"""Train an importance weighted autoencoder on MNIST, as Burda et al. (2016) did.

    python -m experiments.mnist --k=50

On the full MNIST this takes about 7 minutes on two CPU cores, and gives a test NLL of 87.8
nats. On the embedded digits it takes about a minute. The paper's protocol is --preset=paper:
3,280 passes, for which the paper reports 84.78 nats. docs/recipes.md has all presets.

Rerun the command to resume a stopped run from its last checkpoint.
"""

import time

_STARTED = time.time()

from experiments.shared.command import main  # noqa: E402

if __name__ == "__main__":
    main("mnist", __doc__ or "", _STARTED)
