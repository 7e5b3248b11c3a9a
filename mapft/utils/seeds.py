"""Seeds: every stage, process and iteration has its own random stream, derived from one number."""

from hashlib import blake2b


def derive_seed(seed: int, *stream: int | str) -> int:
    """Seed of one named stream: the first 63 bits of BLAKE2b(seed, stream).

    `derive_seed(0, "rollout", rank, iteration)` differs for every rank and iteration and needs no stored generator
    state, so a resumed run repeats the samples of an uninterrupted one.
    """
    digest = blake2b(repr((seed, *stream)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
