"""One optimizer step, or three with checkpoints: `python -m tests.ppo.one_step FOLDER [checkpoint]`.

Responses depend on the prompt alone, so however the eight prompts are split over processes, the step must be the same.
Adam's epsilon of 1 makes a step proportional to its gradient; the schedule falls, so a resumed run must restore it.
"""

import os
import sys
from pathlib import Path

import torch

from mapft.ppo.trl_seam import Responses
from tests.ppo import tabular
from tests.ppo.trainers import make_trainer, table_reward

GLOBAL = len(tabular.PROMPTS)


def main(folder: Path, checkpoint: bool) -> None:
    rows = GLOBAL // int(os.environ.get("WORLD_SIZE", "1"))
    trainer = make_trainer(
        folder,
        [table_reward()],
        per_device_train_batch_size=rows,
        num_ppo_epochs=1,
        total_episodes=3 * GLOBAL if checkpoint else GLOBAL,
        logging_steps=1,
        adam_epsilon=1.0,
        learning_rate=1.0,
        lr_scheduler_type="linear",
        max_grad_norm=0,
        critic_epochs=1,
        critic_minibatch=10**6,
        save_strategy="steps" if checkpoint else "no",
        save_steps=1,
    )

    def responses(prompts, _):
        """A fixed response for each prompt."""
        ids = [list(tabular.responses()[7 * tabular.PROMPTS.index(prompt) + 3]) for prompt in prompts]
        tokenizer = trainer.text_tokenizer
        return Responses(tokenizer(prompts)["input_ids"], ids, tokenizer.batch_decode(ids))

    trainer.responses = responses
    trainer.train()
    trainer.save_model(str(folder / "adapter"))
    trainer.accelerator.end_training()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), "checkpoint" in sys.argv)
