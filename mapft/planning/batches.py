"""How many responses the passes of a run have: as many as fit, where the settings leave it open."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from mapft.config import Batches, Config
from mapft.planning.phases import Phases, meta_policy, replay_rows, without_data

FEWEST_ROWS = 4  # of a pass without gradient checkpointing: below, recomputing layers of larger passes takes less time
LOG_PROB_ROWS = 64  # at most
CHOSEN = ("prefill", "decoding", "log_probs", "update")  # phases whose number of responses is chosen


def choose(config: Config, phases: Phases, budget: Mapping[str, float]) -> Batches:
    """The largest batches of which each phase of CHOSEN needs at most its budget in bytes, else the smallest.

    Batches that the settings give are as given. Gradient checkpointing, which takes more time, is used where passes
    of FEWEST_ROWS responses do not fit without it.
    """
    trainer, sampling = config.trainer, config.sampling
    batch = max(trainer.rows_per_iteration, sampling.batch_size)

    def update_fits(rows: int, checkpointing: bool) -> bool:
        return phases.update(rows, checkpointing=checkpointing) <= budget["update"]

    def generation_fits(rows: int) -> bool:
        return all(size <= budget[name] for name, size in phases.generation(rows, batch).items())

    sizes = [rows for rows in range(1, trainer.per_device_train_batch_size + 1) if trainer.rows_per_step % rows == 0]
    if trainer.micro_batch_size:
        sizes = [trainer.micro_batch_size]
    fewest = next((rows for rows in sizes if rows + replay_rows(config, rows) >= FEWEST_ROWS), sizes[-1])
    checkpointing = trainer.gradient_checkpointing
    if checkpointing is None:
        checkpointing = not update_fits(fewest, checkpointing=False)
    return Batches(
        micro_batch=largest(sizes, lambda rows: update_fits(rows, checkpointing)),
        checkpointing=checkpointing,
        log_probs=trainer.local_rollout_forward_batch_size
        or largest(list(powers_of_two(LOG_PROB_ROWS)), lambda rows: phases.log_probs(rows) <= budget["log_probs"]),
        generation=sampling.micro_batch_size or largest(list(powers_of_two(batch)), generation_fits),
    )


def largest(sizes: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The largest of the ascending sizes that fits, by bisection; the first where none does."""
    first, last = 0, len(sizes)  # sizes[first] fits, or is the first; sizes[last] does not
    if fits(sizes[-1]):
        return sizes[-1]
    last -= 1
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if fits(sizes[middle]) else (first, middle)
    return sizes[first]


def powers_of_two(most: int) -> Iterator[int]:
    """1, 2, 4, ... below `most`, and `most`."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


def undivided(config: Config) -> Batches:
    """As many responses in each pass as there are, without gradient checkpointing."""
    trainer = config.trainer
    generated = max(trainer.rows_per_iteration, config.sampling.batch_size)
    return Batches(trainer.per_device_train_batch_size, False, LOG_PROB_ROWS, generated)


def most_bytes(config: Config, prompt_tokens: int) -> float:
    """More than any pass needs with `undivided` batches, without running one.

    A token needs about 4 bytes for every input and output of a linear layer; this is five times as much.
    """
    trainer, sampling = config.trainer, config.sampling
    with without_data(config):
        policy = meta_policy(config)
    widths = sum(sum(p.shape[-2:]) for p in policy.parameters() if p.dim() > 1 and not p.requires_grad)
    update = trainer.per_device_train_batch_size + replay_rows(config, trainer.per_device_train_batch_size)
    rows = max(update, trainer.rows_per_iteration, sampling.batch_size)
    return 20.0 * widths * rows * (prompt_tokens + sampling.max_new_tokens)
