"""Train an importance weighted autoencoder on Omniglot, as Burda et al. (2016) did.

    python -m experiments.omniglot --k=50

The paper's file is chardata.mat; with it and --preset=paper the paper reports 104.67 nats. The
original drawings (zip files, or tensorflow-datasets) are resized here and split at random: their
results are near the paper's but not comparable to a tenth of a nat.

Stopped at any moment, the same command goes on from the last checkpoint.
"""

import time

_STARTED = time.time()

from experiments.command import main  # noqa: E402

if __name__ == "__main__":
    main("omniglot", __doc__ or "", _STARTED)
