"""What every rank holds after one iteration of a PPOTrainer: `python -m tests.ppo.two_processes FOLDER`, launched."""

import json
import sys
from pathlib import Path

import torch

from tests.ppo import tabular
from tests.ppo.test_trainer import LAM, make_trainer


def main(folder: Path) -> None:
    table = tabular.TableReward(tabular.scores() @ LAM)
    trainer = make_trainer(
        folder, [table], per_device_train_batch_size=64, num_ppo_epochs=1, total_episodes=256, logging_steps=1
    )
    held = {}
    score = trainer._scores

    def keep_scores(inputs, texts, mode):
        scores_B = score(inputs, texts, mode)
        held["responses"] = texts["completion_ids"]
        held["scores"] = scores_B.tolist()
        held["looked_up"] = table([row["prompt"] for row in inputs], texts["completion_ids"])
        return scores_B

    trainer._scores = keep_scores
    trainer.train()
    batch = trainer._rollout
    held["advantages"] = batch["advantages"][batch["mask"].bool()].tolist()
    held["critic"] = [p.double().sum().item() for p in trainer.critic.parameters()]
    held["adapter"] = [p.double().sum().item() for p in trainer.model.parameters() if p.requires_grad]
    last = next(log for log in reversed(trainer.state.log_history) if "loss/value_avg" in log)
    held |= {name: last[name] for name in ("critic/explained_variance", "loss/value_avg")}
    rank = trainer.accelerator.process_index
    (folder / f"rank{rank}.json").write_text(json.dumps(held))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
