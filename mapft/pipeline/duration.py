"""About how long a run takes, by the speed of a first batch -> speed.json.

Nothing of the batch is kept, and the rest of the run does not depend on it.
"""

import math
import os
import time
from collections.abc import Mapping, Sequence

from mapft.config import Config, PolicyConfig
from mapft.pipeline.artifacts import Speed, read_speed, write_speed
from mapft.pipeline.batches import batched_config
from mapft.pipeline.run import Run
from mapft.sampling.prompts import PromptRow, columns_of
from mapft.utils.seeds import derive_seed
from mapft.utils.terminal import clock

CPU_ROWS = 32  # of the first batch; a GPU generates a complete one in about the same time


def print_duration(run: Run, policies: Mapping[str, PolicyConfig | None]) -> None:
    """The estimated duration of a run that has not begun, and of its parts. policies: that it evaluates."""
    pilot, measured = len(run.prompts.pilot) * run.config.sampling.samples_per_prompt, speed(run, run.prompts.pilot)
    rollouts = run.config.mode.scored_responses(run.config.trainer.total_episodes, pilot, run.folder)
    shared = run.cache.has_table("samples", run.sampling_identity)
    parts = durations(batched_config(run), measured, pilot, rollouts, new=0 if shared else pilot)
    parts["evaluation"] = math.fsum(evaluation_seconds(run, policy, measured) for policy in policies.values())
    listed = ", ".join(f"{name} {clock(seconds)}" for name, seconds in parts.items() if seconds)
    unknown = "" if rollouts else f", and the training, whose length mode={run.config.mode.name} does not tell before"
    run.console.print(f"This run takes about {clock(sum(parts.values()))}: {listed}{unknown}.", soft_wrap=True)


def durations(config: Config, speed: Speed, pilot: int, rollouts: int, new: int) -> dict[str, float]:
    """Seconds of sampling, scoring and training, of `pilot` and `rollouts` responses; processes share the training.

    new: responses of the pilot that no other run has sampled, and so scored, before.
    A response of a rollout takes a pass under the policy and one under the reference, and in each of num_ppo_epochs an
    update, as do replay_batch stored responses in every optimizer step; for replay the pilot takes a pass under the
    reference. An update is a pass and its backward pass, which takes as long where the weights are frozen, and a third
    one where the layers are recomputed.
    """
    trainer, processes = config.trainer, int(os.environ.get("WORLD_SIZE", "1"))
    rows = trainer.rows_per_iteration
    rollouts_here = rows * math.ceil(rollouts / (rows * processes))
    updates = rollouts_here * trainer.num_ppo_epochs * (1 + trainer.replay_batch / trainer.rows_per_step)
    passes = 2.0 * rollouts_here
    if rollouts and trainer.replay_batch:
        updates += trainer.warm_start_passes * pilot / processes
        passes += pilot / processes
    passes_per_update = 3 if trainer.gradient_checkpointing else 2
    return {
        "sampling": speed.sampling * (new + rollouts_here),
        "scoring": speed.scoring * (new + rollouts_here),
        "training": speed.forward * (passes + passes_per_update * updates),
    }


def evaluation_seconds(run: Run, policy: PolicyConfig | None, speed: Speed) -> float:
    """Of one policy: decoding generates and scores all candidates, and the KL of an adapter takes two passes."""
    per_candidate = speed.sampling + speed.scoring + (2 * speed.forward if policy and policy.adapter else 0.0)
    candidates = (policy.candidates if policy else None) or 1
    return len(run.prompts.held_out) * samples_per_prompt(run, policy) * candidates * per_candidate


def samples_per_prompt(run: Run, policy: PolicyConfig | None) -> int:
    """Responses of a policy to every held-out prompt."""
    return (policy.samples_per_prompt if policy else None) or run.config.evaluation.samples_per_prompt


def speed(run: Run, rows: Sequence[PromptRow]) -> Speed:
    """The speed on this machine, measured once in a run, on some of these rows."""
    if not run.folder.speed.exists():
        with run.console.status("Measuring the speed"):
            write_speed(run.folder, _measured(run, rows))
    return read_speed(run.folder)


def _measured(run: Run, rows: Sequence[PromptRow]) -> Speed:
    from mapft.ppo.batch import padded_batch
    from mapft.rewards.loader import RewardModels
    from mapft.sampling.engines import make_engine
    from mapft.sampling.models import load_policy
    from mapft.sampling.responses import generate, log_prob
    from mapft.sampling.tokens import check_prompt_lengths, token_rows

    config = batched_config(run)
    policy, tokenizer = load_policy(config.model)
    check_prompt_lengths(token_rows(rows), policy, config.data, config.sampling)
    rows_at_once = config.sampling.micro_batch_size or config.sampling.batch_size
    rows = rows[: rows_at_once if policy.device.type == "cuda" else min(rows_at_once, CPU_ROWS)]
    engine = make_engine(config)
    first, second = (derive_seed(config.seed, "speed", batch) for batch in range(2))
    generate(
        policy, tokenizer, token_rows(rows[:1]), config.sampling, 1, first, engine=engine
    )  # slower than the others
    begin = time.perf_counter()
    samples = generate(policy, tokenizer, token_rows(rows), config.sampling, 1, second, engine=engine)
    sampled = time.perf_counter()
    prompt_ids, response_ids = samples["prompt_token_ids"].tolist(), samples["response_token_ids"].tolist()
    batch = padded_batch(prompt_ids, response_ids, tokenizer.pad_token_id, policy.device)
    log_prob(policy, batch).sum().item()
    passed = time.perf_counter()
    scoring, columns = 0.0, columns_of(rows)
    for name, score in run.scores.items():  # one model in memory at a time
        model = RewardModels({name: score})
        model.load()
        loaded = time.perf_counter()
        model.score(name, samples["prompt"].tolist(), samples["response"].tolist(), columns)
        scoring += time.perf_counter() - loaded
    return Speed((sampled - begin) / len(rows), scoring / len(rows), (passed - sampled) / len(rows))
