"""What every rank has after one iteration: `accelerate launch -m tests.ppo.two_processes FOLDER [engine or replay]`.

replay: with stored responses, of which the processes have different numbers.
"""

import json
import sys
from pathlib import Path

import torch

from mapft.config import EngineConfig
from mapft.sampling.engines import RejectionSampler
from tests.ppo.trainers import make_trainer, stored_responses, table_reward
from tests.sampling.engines import TabularEngine

REPLAY = {"replay_batch": 16, "num_generations": 8, "critic_minibatch": 24, "warm_start_passes": 0.5}


def main(folder: Path, case: str = "") -> None:
    table, replay = table_reward(), None
    if case == "replay":
        replay = stored_responses(3)
        replay.groups.pop()
    trainer = make_trainer(
        folder,
        [table],
        engine=RejectionSampler(TabularEngine(kl=0.013), EngineConfig()) if case == "engine" else None,
        replay=replay,
        per_device_train_batch_size=64,
        num_ppo_epochs=1,
        total_episodes=256,
        logging_steps=1,
        **(REPLAY if replay else {}),
    )
    record = {}
    scores = trainer.scores

    def recorded_scores(rows, texts):
        score_B = scores(rows, texts)
        record["responses"] = texts["completion_ids"]
        record["scores"] = score_B.tolist()
        record["looked_up"] = table([row["prompt"] for row in rows], texts["completion_ids"])
        return score_B

    trainer.scores = recorded_scores
    trainer.train()
    batch = trainer.batch
    record["advantages"] = batch["advantages"][batch["mask"].bool()].tolist()
    record["critic"] = [p.double().sum().item() for p in trainer.critic.parameters()]
    record["adapter"] = [p.double().sum().item() for p in trainer.model.parameters() if p.requires_grad]
    last = next(log for log in reversed(trainer.state.log_history) if "loss/value_avg" in log)
    record |= {name: last[name] for name in ("critic/explained_variance", "loss/value_avg")}
    record |= {name: number for name, number in last.items() if name.startswith("engine/")}
    rank = trainer.accelerator.process_index
    (folder / f"rank{rank}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), *sys.argv[2:])
