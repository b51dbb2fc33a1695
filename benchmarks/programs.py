"""All programs by kind of work and name, and those that cannot run here."""

import importlib
import importlib.util

from benchmarks.work import Build

PEERS = {
    "ours": "benchmarks.ours",
    "jax": "benchmarks.plain_jax",
    "torch": "benchmarks.peers_torch",
    "numpyro": "benchmarks.peers_numpyro",
}
"""The module of each peer. A peer may need a package of its name."""


def missing(peer: str) -> str | None:
    """Why a peer cannot run here, if it cannot."""
    if peer in ("torch", "numpyro") and importlib.util.find_spec(peer) is None:
        return f"{peer} is not installed"
    return None


def builders(work: str, peers: tuple[str, ...]) -> tuple[dict[str, Build], dict[str, str]]:
    """The programs of these peers, by name, and why other peers are left out.

    Args:
      work: ``"step"``, ``"likelihood"`` or ``"sweep"``.
      peers: names in `PEERS`.
    """
    found: dict[str, Build] = {}
    skipped: dict[str, str] = {}
    for peer in peers:
        why = missing(peer)
        if why is not None:
            skipped[peer] = why
            continue
        found |= getattr(importlib.import_module(PEERS[peer]), work.upper())
    return found, skipped


def forget(peers: tuple[str, ...]) -> None:
    """Forget what PyTorch has compiled, before programs of other shapes.

    Once it has seen two shapes it compiles for any, which is slower; and after eight programs of a function it
    compiles no more.
    """
    if "torch" in peers and missing("torch") is None:
        import torch  # pyright: ignore[reportMissingImports]

        torch._dynamo.reset()  # pyright: ignore


def builder(work: str, name: str) -> Build:
    """The program of a name."""
    for peer in PEERS:
        if missing(peer) is None:
            table = getattr(importlib.import_module(PEERS[peer]), work.upper())
            if name in table:
                return table[name]
    raise ValueError(f"Expected a program of {work!r} that can run here, got {name!r}.")
