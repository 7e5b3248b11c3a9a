"""The sizes of the world: `full` for users, `tiny` for tests."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Size:
    """Numbers of tokens, units and training steps; a policy row holds one prompt and `replies_per_row` replies."""

    vocab_size: int = 1536
    tokenizer_replies: int = 12_000
    policy_hidden: int = 128
    policy_inner: int = 640
    policy_steps: int = 2700
    policy_rows: int = 4
    replies_per_row: int = 4
    reward_hidden: int = 96
    reward_inner: int = 256
    reward_steps: int = 320
    reward_rows: int = 32
    block_lr: float = 1e-3
    outer_lr: float = 2e-2


SIZES = {
    "full": Size(),
    "tiny": Size(
        vocab_size=400,
        tokenizer_replies=500,
        policy_hidden=16,
        policy_inner=32,
        policy_steps=4,
        reward_hidden=16,
        reward_inner=32,
        reward_steps=4,
    ),
}
