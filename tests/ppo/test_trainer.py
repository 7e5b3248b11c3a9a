"""Truth: exact enumeration of the tabular world, an independent forward pass, and the uninterrupted run."""

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import GenerationConfig, TrainerCallback
from trl import RLOOConfig, RLOOTrainer

from mapft.errors import UserError
from mapft.ppo import PPOConfig, PPOTrainer, reward_functions
from mapft.ppo.batch import switch_off_dropout
from mapft.ppo.sampler import PromptSampler
from tests.ppo import tabular

LAM = np.array([1.0, 0.8])


QUIET_CPU = {
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}


def lora() -> LoraConfig:
    """A new one each time: PEFT writes the names of the layers it found into it."""
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", exclude_modules=["lm_head"])


def make_trainer(
    folder: Path, reward_funcs, model=None, peft_config="lora", prompts=tabular.PROMPTS, **given
) -> PPOTrainer:
    settings = {
        "kl_coef": 1.0,
        "per_device_train_batch_size": 256,
        "num_ppo_epochs": 4,
        "total_episodes": 256,
        "max_completion_length": tabular.STEPS,
        "learning_rate": 5e-3,
        "lr_scheduler_type": "linear",
        "logging_steps": 4,
        "max_grad_norm": 1.0,
    }
    settings = QUIET_CPU | settings | given
    return PPOTrainer(
        model or tabular.model(),
        reward_funcs,
        args=PPOConfig(output_dir=str(folder), **settings),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tabular.tokenizer(),
        peft_config=lora() if peft_config == "lora" else peft_config,
    )


CLOSE = {"total_episodes": 80_000, "learning_rate": 3e-3, "num_ppo_epochs": 2}  # 80 s, KL(pi||p_lam) about .008


def levels(log_p_PY: np.ndarray, scores_PYV: np.ndarray) -> np.ndarray:
    """E_x E_y r, (V,)."""
    return np.einsum("py,pyv->v", np.exp(log_p_PY), scores_PYV) / len(log_p_PY)


@pytest.fixture(scope="module")
def world():
    log_p0, scores = tabular.log_probs(tabular.model()), tabular.scores()
    return log_p0, scores, tabular.tilted(log_p0, scores @ LAM)


def trained_log_probs(folder: Path, reward_PY: np.ndarray, **settings) -> np.ndarray:
    trainer = make_trainer(folder, [tabular.TableReward(reward_PY)], **settings)
    trainer.train()
    return tabular.log_probs(trainer.model.eval())


@pytest.mark.slow
@pytest.mark.parametrize("kl_coef", [1.0, 0.25])
def test_reaches_p_lam_for_every_kl_coef(tmp_path, world, kl_coef):
    """R = kl_coef * lam.r with weight kl_coef: KL(pi||p_lam) <= .01 nats (a network's own floor here is about .005)."""
    log_p0, scores, log_p_lam = world
    assert tabular.kl(log_p_lam, log_p0) > 0.4
    trainer = make_trainer(tmp_path, [tabular.TableReward(kl_coef * scores @ LAM)], kl_coef=kl_coef, **CLOSE)
    trainer.train()
    log_pi = tabular.log_probs(trainer.model.eval())
    assert tabular.kl(log_pi, log_p_lam) <= 0.01
    ess = [line["objective/ess"] for line in trainer.state.log_history if "objective/ess" in line]
    assert ess[0] < 0.8 < 0.95 < ess[-1]  # E_p0[w^2] at first; 1 + chi^2 of what is left at last
    realized, promised = (levels(log_p, scores) for log_p in (log_pi, log_p_lam))
    np.testing.assert_allclose(realized, promised, atol=0.03)


@pytest.mark.slow
def test_agrees_with_rloo(tmp_path, world):
    """TRL's RLOOTrainer with the KL in the reward has the same optimum: KL to the base and levels agree.

    Both stop at about .01 nats from p_lam, so a level may be off by sqrt(2 * .01) = .14 sd at worst on either side.
    """
    log_p0, scores, log_p_lam = world
    functions = [tabular.TableReward(scores[:, :, v], name=f"value_{v}") for v in range(len(LAM))]
    model = tabular.model()
    switch_off_dropout(model)  # disable_dropout below misses attention's plain number: RLOO would stop at .12 nats
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=model.generation_config.eos_token_id)
    args = RLOOConfig(
        output_dir=str(tmp_path),
        beta=1.0,
        normalize_advantages=False,
        reward_weights=LAM.tolist(),
        disable_dropout=True,
        num_generations=8,
        per_device_train_batch_size=256,
        steps_per_generation=1,
        max_steps=80_000 // 256,
        max_completion_length=tabular.STEPS,
        learning_rate=5e-3,
        lr_scheduler_type="linear",
        **QUIET_CPU,
        logging_steps=1000,
    )
    rloo = RLOOTrainer(
        model,
        functions,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": tabular.PROMPTS * 8}),
        processing_class=tabular.tokenizer(),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", exclude_modules=["lm_head"]),
    )
    rloo.train()
    ppo = make_trainer(tmp_path, functions, reward_weights=LAM.tolist(), **CLOSE)
    ppo.train()
    log_rloo, log_ppo = (tabular.log_probs(trainer.model.eval()) for trainer in (rloo, ppo))
    assert tabular.kl(log_rloo, log_p_lam) <= 0.02
    assert tabular.kl(log_ppo, log_p0) == pytest.approx(tabular.kl(log_rloo, log_p0), abs=0.03)
    sd = np.sqrt((np.exp(log_p_lam)[..., None] * scores**2).sum((0, 1)) / 8 - levels(log_p_lam, scores) ** 2)
    np.testing.assert_allclose(levels(log_ppo, scores) / sd, levels(log_rloo, scores) / sd, atol=0.05)


@pytest.mark.slow
def test_reward_lam_r_with_small_kl_coef_goes_elsewhere(tmp_path, world):
    """TRL PPO's default weight .05 with reward lam.r: towards p0 exp(lam.r/.05), far from p_lam."""
    log_p0, scores, log_p_lam = world
    log_pi = trained_log_probs(tmp_path, scores @ LAM, kl_coef=0.05, total_episodes=10_000)
    overshoot = tabular.tilted(log_p0, scores @ LAM / 0.05)
    assert tabular.kl(log_pi, log_p_lam) > 0.5
    assert (np.exp(log_pi) * (scores @ LAM)).sum() > 1.5 * (np.exp(log_p_lam) * (scores @ LAM)).sum()
    assert tabular.kl(log_pi, overshoot) < tabular.kl(log_p0, overshoot)


class Record(TrainerCallback):
    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs, **_):
        self.logs.append(logs)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [("llama", {}), ("gpt2", {}), ("opt", {}), ("falcon", {}), ("llama", {"cache_implementation": "static"})],
)
def test_first_step_has_no_kl_and_ratio_one(tmp_path, world, architecture, settings):
    """Of models that drop a tenth of their states and, where they can, of their layers in training."""
    settings = {"logging_steps": 1, "num_ppo_epochs": 2, "total_episodes": 512} | settings
    table = tabular.TableReward(world[1] @ LAM)
    trainer = make_trainer(tmp_path, [table], tabular.model(architecture=architecture), **settings)
    record = Record()
    trainer.add_callback(record)
    trainer.train()
    first, second = record.logs[0], record.logs[1]
    assert first["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert first["val/ratio"] == pytest.approx(1, abs=1e-6)
    assert first["val/ratio_var"] == pytest.approx(0, abs=1e-6)
    assert second["val/ratio_var"] > 1e-5
    assert record.logs[2]["objective/kl"] != 0


def test_a_trained_adapter_on_embeddings_is_its_own_reference(tmp_path, world):
    """p0 is base and adapter; KL to it is 0 at the first step, embeddings included."""
    own = LoraConfig(r=4, target_modules=".*(embed_tokens|q_proj|v_proj)", task_type="CAUSAL_LM")
    trained = get_peft_model(tabular.model(), own)
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "lora" in name:
                weight.normal_(std=0.3)
    log_p0 = tabular.log_probs(trained.eval())
    assert tabular.kl(log_p0, world[0]) > 0.05
    table = tabular.TableReward(world[1] @ LAM)
    trainer = make_trainer(tmp_path, [table], trained, peft_config=None, total_episodes=512, logging_steps=1)
    record = Record()
    trainer.add_callback(record)
    trainer.train()
    assert record.logs[0]["objective/kl"] == pytest.approx(0, abs=1e-6)
    with trainer._reference() as reference:
        np.testing.assert_allclose(tabular.log_probs(reference), log_p0, atol=1e-5)


def test_full_fine_tuning_has_a_reference_of_its_own(tmp_path, world):
    """Without an adapter the reference is a second copy, which stays p0 while the policy moves."""
    tabular.model().save_pretrained(tmp_path / "model")
    path = str(tmp_path / "model")
    table = tabular.TableReward(world[1] @ LAM)
    settings = {"model_init_kwargs": {"dtype": "float32"}, "total_episodes": 1024, "learning_rate": 1e-3}
    trainer = make_trainer(tmp_path / "run", [table], path, peft_config=None, **settings)
    record = Record()
    trainer.add_callback(record)
    trainer.train()
    kl = [log["objective/kl"] for log in record.logs if "objective/kl" in log]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 0.05
    np.testing.assert_allclose(tabular.log_probs(trainer.ref_model), world[0], atol=1e-5)
    assert tabular.kl(tabular.log_probs(trainer.model.eval()), world[0]) > 0.05


def test_equal_scores_leave_the_optimum_alone(tmp_path, world):
    """p0 is the optimum of a constant reward; whitening the rounding of log-probabilities would push it away."""
    trainer = make_trainer(tmp_path, [tabular.TableReward(np.full_like(world[0], 3.3))], total_episodes=1024)
    trainer.critic.now[-1].bias.data.fill_(3.3)
    trainer.train()
    assert tabular.kl(tabular.log_probs(trainer.model.eval()), world[0]) < 1e-6


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_that_rewrites_the_base_is_refused(tmp_path, start):
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=start)
    with pytest.raises(UserError, match=f"init_lora_weights={start} rewrites the base"):
        make_trainer(tmp_path, [tabular.TableReward(None)], peft_config=adapter)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"peft_config": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)}, "puts its own tokens"),
        ({"peft_config": None}, "neither an adapter nor a path"),
    ],
)
def test_policies_without_a_reference_are_refused(tmp_path, given, words):
    with pytest.raises(UserError, match=words):
        make_trainer(tmp_path, [tabular.TableReward(None)], **given)


def test_a_reward_function_that_forgets_to_return_is_named(tmp_path):
    def forgets(completions, **_):
        pass

    with pytest.raises(UserError, match="'forgets' returned None"):
        make_trainer(tmp_path, [forgets]).train()


def test_rewards_and_advantages_wear_their_settings(tmp_path, world):
    """R - kl_coef KL at the first step, returns against the double loop for gae_lambda < 1, mean 0 and sd 1."""
    table = tabular.TableReward(world[1] @ LAM)
    trainer = make_trainer(tmp_path, [table], kl_coef=0.25, gae_lambda=0.5)
    torch.nn.init.normal_(trainer.critic.now[-1].weight, std=0.5)
    trainer.model.train()
    inputs = [{"prompt": prompt} for prompt in tabular.PROMPTS * 8]
    with torch.no_grad():  # a policy that has moved, so that there is a KL
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    values = {}
    keep = trainer.critic.values
    trainer.critic.values = lambda *rest: values.setdefault("V", keep(*rest))
    batch = trainer._generate_and_score_completions(inputs)
    mask, kl = batch["mask"], batch["old_logp"] - batch["ref_logp"]
    rewards = -0.25 * kl * mask
    ids = [row[:n].tolist() for row, n in zip(batch["completion_ids"], mask.sum(1), strict=True)]
    score = table([row["prompt"] for row in inputs], ids)
    rewards[torch.arange(len(ids)), mask.sum(1) - 1] += torch.tensor(score)
    expected = torch.zeros_like(rewards)
    for row, length in enumerate(mask.sum(1)):
        advantage = 0.0
        for t in reversed(range(length)):
            following = values["V"][row, t + 1] if t + 1 < length else 0.0
            advantage = rewards[row, t] + following - values["V"][row, t] + 0.5 * advantage
            expected[row, t] = advantage
    chosen = mask.bool()
    expected = (expected - expected[chosen].mean()) / expected[chosen].std(correction=0)
    torch.testing.assert_close(batch["advantages"][chosen], expected[chosen], rtol=1e-4, atol=1e-4)


def test_two_processes_take_their_own_rewards_and_agree_on_the_rest(tmp_path):
    """Each rank's scores are those of its own responses; one mean, one sd and one critic for both."""
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "-m", "tests.ppo.two_processes"]
    done = subprocess.run([sys.executable, *launch, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["responses"] != ranks[1]["responses"]
    for rank in ranks:
        assert rank["scores"] == pytest.approx(rank["looked_up"], abs=1e-5)
    advantages = np.concatenate([rank["advantages"] for rank in ranks])
    assert advantages.mean() == pytest.approx(0, abs=1e-5)
    assert advantages.std() == pytest.approx(1, abs=1e-4)
    assert abs(np.mean(ranks[0]["advantages"])) > 1e-4
    for name in ("critic", "adapter", "critic/explained_variance", "loss/value_avg"):
        assert ranks[0][name] == ranks[1][name]


@pytest.mark.parametrize("num_generations", [1, 3])
def test_every_iteration_gets_fresh_prompts_in_groups(num_generations):
    """Hand arithmetic: 5 prompts, 2 per iteration, 4 passes; five iterations are two shuffled epochs."""
    settings = {"prompts": 5, "per_iteration": 2, "repeats": 4, "iterations": 5, "seed": 0}
    sampler = PromptSampler(num_generations=num_generations, **settings)
    rows = np.array(list(sampler)).reshape(5, 4, 2, num_generations)
    assert len(sampler) == rows.size
    assert (rows == rows[:, :1, :, :1]).all()
    prompts = rows[:, 0, :, 0].ravel().tolist()
    assert sorted(prompts[:5]) == sorted(prompts[5:]) == [0, 1, 2, 3, 4]
    assert prompts[:5] != prompts[5:]


def test_responses_to_one_prompt_come_in_groups(tmp_path):
    sampler = make_trainer(tmp_path, [tabular.TableReward(None)], num_generations=4)._get_train_sampler()
    assert (np.array(list(sampler)).reshape(-1, 4).std(axis=1) == 0).all()


def test_no_checkpoint_falls_within_an_iteration(tmp_path, world):
    class Save(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_save = True

    settings = {"save_strategy": "steps", "save_steps": 100, "total_episodes": 512, "logging_steps": 100}
    trainer = make_trainer(tmp_path, [tabular.TableReward(world[1] @ LAM)], **settings)
    trainer.add_callback(Save())
    trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]


def test_settings_can_serve_two_trainers(tmp_path):
    args = make_trainer(tmp_path, [tabular.TableReward(None)], total_episodes=1024).args
    given = PPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, num_train_epochs=3, **QUIET_CPU)
    rest = {"args": given, "processing_class": tabular.tokenizer()}
    steps = []
    for prompts in (tabular.PROMPTS, tabular.PROMPTS * 2):
        data = Dataset.from_dict({"prompt": prompts})
        trainer = PPOTrainer(
            tabular.model(), [tabular.TableReward(None)], train_dataset=data, peft_config=lora(), **rest
        )
        steps.append(trainer.args.max_steps)
    assert steps == [12, 24]
    assert args.max_steps == 16


def test_rollouts_follow_p0_despite_the_models_own_decoding_defaults(tmp_path, world):
    """4000 responses against the enumerated p0, which top_k=2 or T=.5 of the model's generation_config would break."""
    trainer = make_trainer(tmp_path, [tabular.TableReward(world[1] @ LAM)])
    torch.manual_seed(0)
    inputs = [{"prompt": tabular.PROMPTS[3]}] * 4000
    batch, _ = trainer._generate_rollout(inputs)
    lengths = batch["mask"].sum(1).tolist()
    index = {ids: y for y, ids in enumerate(tabular.responses())}
    counts = np.zeros(len(index))
    for ids, length in zip(batch["completion_ids"].tolist(), lengths, strict=True):
        counts[index[tuple(ids[:length])]] += 1
    expected = 4000 * np.exp(world[0][3])
    kept = expected > 5
    chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi_square < kept.sum() + 4 * np.sqrt(2 * kept.sum())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_log_probs_match_an_unpadded_forward_pass(tmp_path, architecture):
    """Left and right padding, sorting and cutting of the batch change nothing; EOS and sampled pads are counted."""
    model = tabular.model(architecture=architecture)
    log_p0 = tabular.log_probs(model)
    trainer = make_trainer(tmp_path, [tabular.TableReward(log_p0)], model=model, local_rollout_forward_batch_size=7)
    torch.manual_seed(1)
    batch, texts = trainer._generate_rollout([{"prompt": prompt} for prompt in tabular.PROMPTS * 8])
    logp, features = trainer._log_probs(trainer.model, batch, features=True)
    assert features.shape == (*batch["mask"].shape, model.config.hidden_size)
    torch.testing.assert_close(
        batch["old_logp"], logp, atol=1e-5, rtol=0
    )  # kept while drawing, and by a pass of its own
    index = {ids: y for y, ids in enumerate(tabular.responses())}
    for row, prompt, ids in zip(logp.sum(1).tolist(), texts["prompts"], texts["completion_ids"], strict=True):
        assert row == pytest.approx(log_p0[tabular.PROMPTS.index(prompt), index[tuple(ids)]], abs=1e-4)


@pytest.mark.parametrize("trunk", ["reference", "policy"])
def test_the_critic_reads_the_trunk_it_is_told_to(tmp_path, world, trunk):
    """Hidden states of one unpadded pass by the adapted model or its base; log-probabilities do not depend on it."""
    trainer = make_trainer(tmp_path, [tabular.TableReward(world[1] @ LAM)], critic_trunk=trunk)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    batch, _ = trainer._generate_rollout([{"prompt": tabular.PROMPTS[0]}] * 4)
    kept = batch["old_logp"]
    features = trainer._add_log_probs(batch)
    torch.testing.assert_close(batch["old_logp"], kept, atol=1e-5, rtol=0)
    assert (batch["old_logp"] - batch["ref_logp"]).abs().max() > 0.01
    policy = trainer.model.eval()
    with torch.no_grad(), policy.disable_adapter() if trunk == "reference" else nullcontext():
        prompt = batch["prompt_ids"][:1]
        states = policy.get_base_model().base_model(prompt).last_hidden_state
    torch.testing.assert_close(features[0, 0], states[0, -1], atol=1e-5, rtol=0)


def gradient(trainer: PPOTrainer, rollout, micro_batch: int) -> torch.Tensor:
    """Gradient of one full-batch step, cut into micro-batches."""
    trainer.args.per_device_train_batch_size = micro_batch
    trainer.model.train()
    trainer.model.zero_grad()
    trainer._rollout = rollout
    plan = trainer._plan_epoch(0)
    trainer.current_gradient_accumulation_steps = len(plan)
    for rows in plan:
        trainer._compute_loss(trainer.model, take_padded(rollout, rows, micro_batch)).backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def take_padded(rollout, rows, micro_batch):
    """Micro-batches of one row go through the trainer's cutting; larger ones keep all their padding."""
    from mapft.ppo.batch import take

    return take(rollout, rows) if micro_batch == 1 else {name: array[rows] for name, array in rollout.items()}


def test_padding_and_accumulation_do_not_change_the_gradient(tmp_path, world):
    trainer = make_trainer(tmp_path, [tabular.TableReward(world[1] @ LAM)])
    trainer.model.train()
    rollout = trainer._generate_and_score_completions([{"prompt": prompt} for prompt in tabular.PROMPTS * 2])
    whole = gradient(trainer, rollout, 16)
    assert whole.abs().max() > 1e-4
    for micro_batch in (4, 1):
        difference = gradient(trainer, rollout, micro_batch) - whole
        assert difference.norm() < 1e-5 * whole.norm()  # fp32: 1e-7 per sum


def test_resumed_run_equals_the_uninterrupted_one(tmp_path, world):
    """Stop after the first of three iterations; adapter and critic end bit for bit the same on CPU in fp32."""
    reward = tabular.TableReward(world[1] @ LAM)
    settings = {"total_episodes": 3 * 256, "save_strategy": "steps", "save_steps": 1, "num_mini_batches": 2}
    settings["per_device_train_batch_size"] = 128
    straight = make_trainer(tmp_path / "a", [reward], **settings)
    straight.train()
    shutil.copytree(tmp_path / "a/checkpoint-8", tmp_path / "b/checkpoint-8")
    record = Record()
    resumed = make_trainer(tmp_path / "b", [reward], logging_steps=1, **settings)
    resumed.add_callback(record)
    resumed.train()
    assert sum("objective/kl" in log for log in record.logs) == 2  # rollouts: not the first one again
    assert resumed.state.global_step == straight.state.global_step == 24
    for (name, one), (_, two) in zip(straight.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.equal(one, two), name
    for one, two in zip(straight.critic.state_dict().values(), resumed.critic.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_conversations_several_rewards_and_evaluation(tmp_path):
    """Messages go through the chat template; reward_weights weigh several functions; evaluation logs eval_ metrics."""
    seen = []

    def length(completions, **_):
        seen.append(completions[0])
        return [float(len(c[0]["content"])) for c in completions]

    def one(completions, **_):
        return [1.0] * len(completions)

    tokenizer = tabular.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    rows = Dataset.from_dict({"prompt": [[{"role": "user", "content": p}] for p in tabular.PROMPTS]})
    args = PPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        num_generations=2,
        total_episodes=16,
        max_completion_length=3,
        reward_weights=[0.5, 2.0],
        **QUIET_CPU,
    )
    trainer = PPOTrainer(
        tabular.model(),
        [length, one],
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(target_modules="all-linear", exclude_modules=["lm_head"]),
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert seen[0][0]["role"] == "assistant"
    expected = 0.5 * metrics["eval_rewards/length/mean"] + 2.0
    assert metrics["eval_objective/scores"] == pytest.approx(expected, rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(-metrics["eval_objective/rlhf_reward"], rel=1e-4)


def test_reward_functions_keep_their_names(tmp_path):
    class Judge:
        def __call__(self, completions, **_):
            raise ConnectionError("down")

    def scaled(completions, factor, **_):
        return [factor] * len(completions)

    trainer = make_trainer(tmp_path, [Judge(), partial(scaled, factor=2.0)])
    assert trainer.reward_func_names == ["Judge", "scaled"]
    with pytest.raises(UserError, match="'Judge' raised ConnectionError: down"):
        trainer.train()


def test_log_probs_of_a_foreign_sampler_are_not_taken_for_the_policys(tmp_path, world):
    def rollout(prompts, trainer):
        ids = [trainer.processing_class(prompt)["input_ids"] for prompt in prompts]
        responses = [list(tabular.responses()[0]) for _ in prompts]
        return {"prompt_ids": ids, "completion_ids": responses, "logprobs": [[0.0] * len(r) for r in responses]}

    trainer = make_trainer(tmp_path, [tabular.TableReward(world[1] @ LAM)])
    trainer.rollout_func = rollout
    batch, _ = trainer._generate_rollout([{"prompt": prompt} for prompt in tabular.PROMPTS])
    trainer._add_log_probs(batch)
    np.testing.assert_allclose(batch["old_logp"].sum(1), world[0][:, 0], atol=1e-4)


def test_what_a_reward_function_raises_is_one_sentence_with_its_name(tmp_path):
    def unreachable(completions, **_):
        raise ConnectionError("no answer from the judge")

    with pytest.raises(UserError, match="'unreachable' raised ConnectionError: no answer from the judge"):
        make_trainer(tmp_path, [unreachable]).train()


class Flaky:
    """A remote reward that answers only from the third call on."""

    __name__ = "flaky"

    def __init__(self):
        self.calls = 0

    def __call__(self, completions, **_):
        self.calls += 1
        if self.calls < 3:
            raise ConnectionError(f"call {self.calls}")
        return [0.0] * len(completions)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_remote_reward_function_is_called_again(tmp_path, monkeypatch, asynchronous):
    monkeypatch.setattr(reward_functions, "FIRST_WAIT", 0.01)
    flaky = Flaky()

    async def flaky_async(completions, **_):
        return flaky(completions)

    function = flaky_async if asynchronous else flaky
    with pytest.raises(UserError, match="raised ConnectionError: call 2"):
        make_trainer(tmp_path, [function], reward_retries=1).train()
    flaky.calls = 0
    make_trainer(tmp_path, [function], reward_retries=2).train()
    assert flaky.calls == 3


def test_a_users_mistake_is_not_tried_again(tmp_path):
    calls = []

    def mistaken(completions, **_):
        calls.append(1)
        raise UserError("no such model")

    with pytest.raises(UserError, match="^no such model$"):
        make_trainer(tmp_path, [mistaken], reward_retries=5).train()
    assert len(calls) == 1


def test_warm_up_fits_the_critic_and_leaves_the_policy(tmp_path, world):
    """After the warm-up the policy moves; the critic has explained something from the second iteration on."""
    trainer = make_trainer(
        tmp_path, [tabular.TableReward(world[1] @ LAM)], total_episodes=768, critic_warmup_iterations=2
    )
    record = Record()
    trainer.add_callback(record)
    trainer.train()
    kl = [log["objective/kl"] for log in record.logs if "objective/kl" in log]
    assert kl[:3] == pytest.approx([0, 0, 0], abs=1e-5)
    assert record.logs[1]["critic/explained_variance"] > 0.05
    assert tabular.kl(tabular.log_probs(trainer.model.eval()), world[0]) > 0.01


@pytest.mark.parametrize("count", [0, 7])
def test_a_wrong_number_of_rewards_names_the_function(tmp_path, count):
    def short(completions, **_):
        return [0.0] * count

    with pytest.raises(ValueError, match=f"'short' returned {count} rewards, but 256 were expected"):
        make_trainer(tmp_path, short).train()


def test_async_reward_functions_are_awaited(tmp_path):
    async def remote(completions, **_):
        return [float(len(completion)) for completion in completions]

    trainer = make_trainer(tmp_path, [remote])
    record = Record()
    trainer.add_callback(record)
    trainer.train()
    assert record.logs[0]["rewards/remote/mean"] > 0


def test_missing_score_is_an_error_that_names_the_function(tmp_path):
    def broken(completions, **_):
        return [float("nan") if i == 3 else 0.0 for i in range(len(completions))]

    with pytest.raises(UserError, match="'broken' gave nan for response 3"):
        make_trainer(tmp_path, [broken]).train()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kl_coef": 0.0}, "kl_coef=0.0 is not positive"),
        ({"entropy_coef": 0.01}, "entropy_coef=0.01 does nothing in PPOTrainer"),
        ({"num_ppo_epochs": 0}, "num_ppo_epochs=0"),
        ({"critic_trunk": "none"}, "critic_trunk=none is unknown"),
        ({"beta": 0.05}, "beta=0.05 is GRPO's name; in PPOConfig give kl_coef"),
        ({"epsilon": 0.1}, "in PPOConfig give cliprange"),
        ({"num_iterations": 7}, "in PPOConfig give num_ppo_epochs"),
        ({"scale_rewards": "group"}, "scale_rewards=group does nothing in PPOTrainer"),
        ({"gae_lambda": 2.0}, "gae_lambda=2.0 is out of range"),
        ({"cliprange": -0.2}, "cliprange=-0.2 is not positive"),
        ({"total_episodes": 0}, "total_episodes=0 is not positive"),
        ({"total_episodes": 10, "max_steps": 5}, "both say how long to train"),
        ({"per_device_train_batch_size": 1}, "one response has no spread"),
        ({"critic_warmup_iterations": -1}, "critic_warmup_iterations=-1 is negative"),
        ({"reward_retries": -1}, "reward_retries=-1 is negative"),
        ({"save_total_limit": 1}, "save_total_limit=1 leaves no whole checkpoint"),
        ({"per_device_train_batch_size": 6, "num_generations": 4}, "whole groups"),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        PPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, **settings)


@pytest.mark.parametrize(
    "setting", [{"temperature": 0.7}, {"top_k": 50}, {"generation_kwargs": {"top_k": 5}}, {"gamma": 0.99}]
)
def test_settings_that_move_the_optimum_are_named_in_a_warning(tmp_path, setting):
    [name] = setting
    with pytest.warns(UserWarning, match="move PPO.s optimum") as caught:
        PPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, **setting)
    assert any(f"{name}={setting[name]} (exact: " in str(warning.message) for warning in caught)
