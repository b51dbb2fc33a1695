"""Train an importance weighted autoencoder on Omniglot, as Burda et al. (2016) did.

    python -m experiments.omniglot --k=50

The paper's file is chardata.mat. On this file, with --preset=paper, the paper reports 104.67
nats. The original drawings (zip files, or tensorflow-datasets) are resized here and split at
random. Their results are near the paper's; do not compare them to a tenth of a nat.

Rerun the command to resume a stopped run from its last checkpoint.
"""

import time

_STARTED = time.time()

from experiments.shared.command import main  # noqa: E402

if __name__ == "__main__":
    main("omniglot", __doc__ or "", _STARTED)
