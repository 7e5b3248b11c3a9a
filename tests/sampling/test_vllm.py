"""engine=vllm against real servers. Truth: the model's own log-probabilities, and exact enumeration of two steps."""

import itertools
import json
from collections import Counter
from copy import copy
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import chisquare
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from mapft.cli import main
from mapft.config import EngineConfig
from mapft.sampling.engines.servers import LocalServers
from mapft.sampling.engines.vllm import VLLM
from mapft.tracking.glossary import METRICS
from mapft.utils.consistency import own_log_probs
from mapft.utils.errors import UserError
from tests.sampling.vllm_server import PYTHON, served
from tests.worlds import SMALL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="MAPFT_VLLM names no python with vLLM: use launch/test.sh --engines"),
]
WORDS = [f"w{number}" for number in range(30)]
EOS, PROMPT = 1, [5, 6, 7]
DRAWS = 1500


SIZES = {
    "vocab_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "eos_token_id": EOS,
    "bos_token_id": None,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def save(policy: PreTrainedModel, folder: Path) -> Path:
    """With a tokenizer of 32 tokens."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<eos>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    policy.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A Llama of which some tokens are likely."""
    torch.manual_seed(0)
    policy = LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=128))
    return save(policy, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory) -> Path:
    """Large random weights."""
    folder = tmp_path_factory.mktemp("adapter")
    tuned = get_peft_model(LlamaForCausalLM.from_pretrained(model), LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(1)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def local(model):
    """Two servers."""
    both = LocalServers(served(model, 2))
    try:
        both.start()
        yield both
    finally:
        for server in both.own:
            server.stop()


@pytest.fixture
def engine(local, tmp_path) -> VLLM:
    return VLLM(EngineConfig(name="vllm", urls=list(local.commands), adapters=str(tmp_path)), local)


def log_prob(policy, ids: list[int]) -> float:
    """Of a response to PROMPT."""
    return own_log_probs(policy, [PROMPT + ids])[len(PROMPT) - 1 :].sum().item()


def policies(model: Path, adapter: Path):
    base = LlamaForCausalLM.from_pretrained(model).eval()
    yield None, base
    tuned = get_peft_model(LlamaForCausalLM.from_pretrained(model), LoraConfig(r=4, target_modules="all-linear"))
    tuned.load_adapter(adapter, "other")
    tuned.set_adapter("other")
    yield adapter, tuned.eval()


def check_distribution(engine: VLLM, policy: PreTrainedModel) -> None:
    """Of two tokens: log-probabilities to 1e-3, the distribution by chi-square."""
    responses = [[EOS], *([a, b] for a, b in itertools.product(range(32), repeat=2) if a != EOS)]
    proposals = engine.propose([PROMPT] * DRAWS, range(DRAWS), [EOS], 2)
    for proposal in proposals[:50]:
        assert proposal.logp == pytest.approx(log_prob(policy, proposal.ids), abs=1e-3)
    first_K = torch.tensor([PROMPT])
    with torch.no_grad():
        log_p_K = policy(first_K).logits[0, -1].double().log_softmax(-1)
        after = torch.tensor([[*PROMPT, token] for token in range(32)])
        log_p_KK = policy(after).logits[:, -1].double().log_softmax(-1)
    expected = DRAWS * np.array(
        [log_p_K[ids[0]].exp() * (log_p_KK[ids[0], ids[1]].exp() if len(ids) > 1 else 1) for ids in responses]
    )
    counts = Counter(tuple(proposal.ids) for proposal in proposals)
    observed = np.array([counts[tuple(ids)] for ids in responses])
    common = expected > 5
    pairs = (np.append(each[common], each[~common].sum()) for each in (observed, expected))
    assert chisquare(*pairs).pvalue > 1e-3


def check_ends(engine: VLLM) -> None:
    """Responses end at EOS or at the limit, and each has its own seed."""
    for proposal in engine.propose([PROMPT] * 64, range(64), [EOS], 20):
        assert EOS not in proposal.ids[:-1]
        assert proposal.ids[-1] == EOS or len(proposal.ids) == 20
    again = engine.propose([PROMPT] * 4, range(4), [EOS], 20)
    assert len({tuple(proposal.ids) for proposal in again}) > 1


def test_the_distribution_is_the_models(engine, model, adapter):
    """With the base model and with an adapter."""
    for folder, policy in policies(model, adapter):
        engine.load(folder)
        check_distribution(engine, policy)
        check_ends(engine)


def test_a_gpt2_has_the_models_distribution_without_adapters(adapter, tmp_path):
    """vLLM refuses --enable-lora for GPT-2; a server without it samples the base model."""
    torch.manual_seed(0)
    policy = GPT2LMHeadModel(GPT2Config(**SIZES)).eval()
    config = served(save(policy, tmp_path / "gpt2"))
    refused = LocalServers(config)
    with pytest.raises(UserError, match=r"has ended \(\w+: GPT2LMHeadModel does not support LoRA"):
        refused.start()
    config.engine.options = [*config.engine.options, "--no-enable-lora"]
    local = LocalServers(config)
    engine = VLLM(EngineConfig(name="vllm", urls=list(local.commands), adapters=str(tmp_path)), local)
    try:
        engine.load(None)
        check_distribution(engine, policy)
        check_ends(engine)
        with pytest.raises(UserError, match=r"load_lora_adapter replied with status .*LoRA is not enabled"):
            engine.load(adapter)
    finally:
        for server in local.own:
            server.stop()


def test_a_server_that_has_lost_the_adapter_gets_it_again(engine, model, adapter):
    """As one that was started again, under many requests at a time."""
    engine.load(adapter)
    for url in engine.urls:
        reply = httpx.post(f"{url}/v1/unload_lora_adapter", json={"lora_name": engine.model})
        assert reply.status_code == 200
    *_, (_, tuned) = policies(model, adapter)
    for proposal in engine.propose([PROMPT] * 32, range(32), [EOS], 4):
        assert proposal.logp == pytest.approx(log_prob(tuned, proposal.ids), abs=1e-3)


def test_more_prompt_tokens_than_a_pass_takes(engine, local):
    """128 prompts of 60 tokens at once, 3840 tokens on each server; a pass has 2048."""
    engine.load(None)
    before, prompts = local.own, [[2 + (k + n) % 30 for k in range(60)] for n in range(128)]
    assert len(engine.propose(prompts, range(128), [EOS], 4)) == 128
    assert local.own == before
    assert all(server.alive for server in before)


def run(model: Path, urls: list[str], output: Path, *more: str) -> list[str]:
    prompts = output.parent / "prompts.jsonl"
    lines = [json.dumps({"prompt": " ".join(WORDS[number + k] for k in range(4))}) for number in range(26)]
    prompts.write_text("\n".join(lines) + "\n", "utf-8")
    return [
        "run",
        "experiment=own",
        f"model.path={model}",
        f"data.path={prompts}",
        "rewards=[]",
        "+rewards.vowels.kind=function",
        "+rewards.vowels.target=tests.sampling.test_vllm:even",
        "palette=custom",
        "+palette.sd.vowels=0.3",
        "engine=vllm",
        f"engine.urls=[{','.join(urls)}]",
        "engine.retries=1",
        f"output={output}",
        "sampling.max_new_tokens=8",
        *SMALL,
        *more,
    ]


def even(prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """Share of words with an even number."""
    return [float(np.mean([int(word[1:]) % 2 == 0 for word in text.split()] or [0.5])) for text in completions]


def test_a_run_tells_how_exact_it_is_and_survives_a_server(model, local, tmp_path, capfd, caplog):
    """One of two servers is killed between pilot and training; then both, and then the first is back."""
    output, urls = tmp_path / "runs", list(local.commands)
    servers = local.own
    command = run(model, urls, output)
    assert main(["sample", *command[1:]]) == 0
    [folder] = [path for path in output.glob("*") if (path / "samples.parquet").exists()]
    samples = pd.read_parquet(folder / "samples.parquet")
    assert samples["engine_log_ratio"].abs().max() < 0.05
    servers[0].stop()
    assert main(command) == 0
    assert f"{servers[0].url} does not answer" in caplog.text
    assert "The engine is" in capfd.readouterr().out
    logs = [json.loads(line) for line in (folder / "logs.jsonl").read_text("utf-8").splitlines()]
    measures = [{name for name in line if name.startswith("engine/")} for line in logs]
    assert {name for name in METRICS if name.startswith("engine/")} in measures
    servers[1].stop()
    again = run(model, urls, output, "seed=1")
    assert main(again) == 2
    assert "No server of engine.urls=" in capfd.readouterr().err
    first(local).start()
    assert main(again) == 0


def first(local: LocalServers) -> LocalServers:
    """The first of the servers alone."""
    one = copy(local)
    one.commands = dict(list(local.commands.items())[:1])
    return one


def test_a_server_of_the_run_that_dies_is_started_again(local, model, adapter, tmp_path):
    """Before the next adapter is loaded, and while responses are generated."""
    one = first(local)
    engine = VLLM(EngineConfig(name="vllm", urls=list(one.commands), adapters=str(tmp_path), retries=0), one)
    *_, (_, tuned) = policies(model, adapter)
    for load in (True, False):
        [server] = one.own
        server.stop()
        if load:
            engine.load(adapter)
        for proposal in engine.propose([PROMPT] * 8, range(8), [EOS], 4):
            assert proposal.logp == pytest.approx(log_prob(tuned, proposal.ids), abs=1e-3)
        assert one.own != [server]
