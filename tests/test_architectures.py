"""Every architecture is trained on its own log-probabilities, or refused in one sentence.

Truth: log_softmax of the logits of one sequence at a time, without padding, from the model itself, and from it with
the adapter as PEFT applies it.
"""

import re

import pytest
import torch
from datasets import Dataset
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mapft.commands.export import write_merged
from mapft.config import ModelConfig
from mapft.ppo import PPOConfig, PPOTrainer
from mapft.sampling.models import load_policy
from mapft.training.adapter import check_trainable, lora_config, save_adapter
from mapft.utils.errors import UserError
from mapft.utils.forward import response_log_probs
from tests import architectures
from tests.configs import make_config
from tests.ppo.trainers import QUIET_CPU, move_policy

# A family each; those that are left run too, as slow tests.
FAMILIES = (
    "bert bloom cohere2 deepseek_v3 electra falcon gemma gemma2 gemma3_text glm4_moe gpt2 gpt_bigcode gpt_neo gpt_neox",
    "gpt_oss gptj granite granitemoe helium jetmoe lfm2 llama minicpm3 mistral mixtral modernbert-decoder mpt nemotron",
    "olmo2 olmoe opt persimmon phi phi3 qwen2 qwen3 qwen3_moe qwen3_next recurrent_gemma smollm3 stablelm starcoder2",
    "xglm",
)
FAMILIAR = " ".join(FAMILIES).split()
POSITIONS, CACHE = "position ids that are counted from the first token", "decoding with a cache gives others"
PADDING, TARGETS = "padding on the left changes them", "adapter.target_modules=all-linear does not fit"
REFUSED = {
    **dict.fromkeys(["camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta"], POSITIONS),
    **dict.fromkeys(["xlm-roberta-xl", "xmod"], POSITIONS),
    **dict.fromkeys(["bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp"], PADDING),
    **dict.fromkeys(["pegasus", "plbart", "rwkv", "trocr", "whisper", "xlstm"], PADDING),
    **dict.fromkeys(["nemotron_h", "reformer"], CACHE),
    **dict.fromkeys(["deepseek_v4", "falcon_h1", "falcon_mamba", "laguna", "llama4_text", "mamba", "mamba2"], TARGETS),
    **dict.fromkeys(["phimoe"], TARGETS),
    **dict.fromkeys(["cpmant", "prophetnet", "xlnet"], "later tokens change those of earlier ones"),
    "dory": "DoryForCausalLM is not supported",
    "jamba": "cannot be merged into",
}
OTHERS = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(FAMILIAR) - set(REFUSED))
PROMPTS = ["Tell me about", "Why", "Write one line on my neighbour.", "What do you think of"] * 2
SHORT = QUIET_CPU | {"max_completion_length": 5, "per_device_train_batch_size": 8, "total_episodes": 8}
ONE_SENTENCE = re.compile(r"([^\n.]|\.(?! ))*\.")


def length(completions, **_):
    return [float(len(text)) for text in completions]


@torch.no_grad()
def own_log_probs(model, batch):
    """(B, T), each row by itself, in float64."""
    logp_BT = torch.zeros(batch["mask"].shape)
    for row, (prompt, used, response, mask) in enumerate(
        zip(batch["prompt_ids"], batch["prompt_mask"], batch["completion_ids"], batch["mask"], strict=True)
    ):
        ids_1S = torch.cat([prompt[used.bool()], response[mask.bool()]])[None]
        log_p_SK = model(input_ids=ids_1S).logits[0, :-1].double().log_softmax(-1)
        logp_S = log_p_SK.gather(1, ids_1S[0, 1:, None]).squeeze(1)
        logp_BT[row, : int(mask.sum())] = logp_S[-int(mask.sum()) :].float()
    return logp_BT


def same(first_BT, second_BT, atol=1e-5):
    """Equal to atol and 16 roundings of fp32, which are 1e-6 each for log-probabilities of -8 to -16."""
    torch.testing.assert_close(first_BT, second_BT, atol=atol, rtol=16 * 2**-24)


def train_and_export(folder):
    """Everything that a run does to log-probabilities; UserError where a part of mapft refuses the model."""
    config = make_config(model=ModelConfig(path=str(folder / "model")))
    check_trainable(config)
    policy, tokenizer = load_policy(config.model)
    trainer = PPOTrainer(
        policy,
        [length],
        args=PPOConfig(output_dir=str(folder), **SHORT),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tokenizer,
        peft_config=lora_config(config),
    )
    trainer.model.train()
    batch = trainer.rollout([{"prompt": prompt} for prompt in PROMPTS])
    with torch.no_grad():
        training_BT, _, _ = response_log_probs(trainer.model, batch, trainer.head)
    same(batch["ref_logp"], batch["old_logp"])  # KL 0, of recorded log-probabilities to those of a pass
    same(training_BT, batch["old_logp"])  # ratio 1
    trainer.model.eval()
    same(training_BT, own_log_probs(trainer.model, batch))
    move_policy(trainer, std=0.05)
    tuned_BT = own_log_probs(trainer.model, batch)
    assert (tuned_BT - training_BT).abs().max() > 0.01
    same(trainer.log_probs(trainer.model, batch, features=False)[0], tuned_BT)
    with trainer.reference() as reference:
        same(trainer.log_probs(reference, batch, features=False)[0], batch["ref_logp"])
    save_adapter(trainer, folder / "adapter")
    write_merged(config.model, folder / "adapter", folder / "merged")
    merged, _ = load_policy(ModelConfig(path=str(folder / "merged")))
    same(own_log_probs(merged, batch), tuned_BT, atol=1e-4)


@pytest.mark.parametrize("kind", FAMILIAR)
@pytest.mark.filterwarnings("ignore")  # of architectures about themselves
def test_a_policy_trains_on_its_own_log_probabilities(tmp_path, kind):
    architectures.write(kind, tmp_path / "model")
    train_and_export(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.filterwarnings("ignore")
def test_so_do_those_of_other_architectures(tmp_path, kind):
    try:
        architectures.write(kind, tmp_path / "model")
    except Exception as error:  # its parts have no small size, or need a package that is not installed
        pytest.skip(str(error))
    train_and_export(tmp_path)


@pytest.mark.parametrize(("kind", "reason"), REFUSED.items())
@pytest.mark.filterwarnings("ignore")
def test_an_architecture_with_other_log_probabilities_is_refused_in_one_sentence(tmp_path, kind, reason):
    architectures.write(kind, tmp_path / "model")
    with pytest.raises(UserError) as refusal:
        train_and_export(tmp_path)
    assert reason in str(refusal.value)
    assert ONE_SENTENCE.fullmatch(str(refusal.value))
