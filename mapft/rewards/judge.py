"""A question that a causal language model on this machine answers, from its logits.

Legend: N responses, B rows of a batch, W token ids of a word.
"""

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mapft.config.fields import setting
from mapft.rewards.model_scorer import ModelScore, ModelScorer, TokenRow
from mapft.rewards.question import QuestionScore, rows_of
from mapft.rewards.score import NO_COLUMNS, Columns
from mapft.utils.errors import UserError, working_on
from mapft.utils.text import encodable


@dataclass(frozen=True, kw_only=True)
class JudgeScore(QuestionScore, ModelScore):
    """r(x, y) = sign * clip(logsumexp z_yes - logsumexp z_no, -clip, clip), z the logits of the answer's first token.

    The sums are over the tokens that are the word, with or without a leading space: these are log-odds, in nats. Where
    the model has a chat template, it reads the text as the user's message. Of a text over max_tokens the beginning of
    the prompt, then of the response is left out.
    """

    max_tokens: int = setting(2048, "Longest text, with template.", unit="tokens", at_least=1)
    chat_options: dict[str, Any] = setting(
        factory=dict, help="Variables of the chat template, for example {enable_thinking: false}."
    )
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    role: ClassVar[str] = "causal language model"

    def load(self, name: str) -> "JudgeScorer":
        return JudgeScorer(name, self)


class JudgeScorer(ModelScorer):
    """The language model in memory. Batch composition never changes a score beyond rounding."""

    settings: JudgeScore

    def __init__(self, name: str, settings: JudgeScore):
        super().__init__(name, settings)
        self.tokenizer.padding_side = "left"
        vocabulary = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))])
        self._yes_W, self._no_W = (
            [token for token, text in enumerate(vocabulary) if text.strip() == word]
            for word in (settings.yes, settings.no)
        )
        for option, word, ids in (("yes", settings.yes, self._yes_W), ("no", settings.no, self._no_W)):
            if not ids:
                raise UserError(
                    f"rewards.{name}.{option}={word} is not one token of {settings.path}; give a word that is."
                )
        special = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")

    def score(self, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS) -> np.ndarray:
        """(N,) float64."""
        rows = zip(prompts, responses, rows_of(columns, len(responses)), strict=True)
        return self.settings.scores(self.score_batches([self._encode(*row) for row in rows], self._log_odds))

    def _encode(self, prompt: str, response: str, row: Mapping[str, str]) -> TokenRow:
        """The tokens of the text, with as much of prompt and response as max_tokens allows."""
        prompt, response = self._plain(prompt), self._plain(response)
        plain_row = {name: self._plain(text) for name, text in row.items()}

        def ids_without(count: int) -> list[int]:
            """count: of characters at the beginning of prompt and response."""
            return self._ids(prompt[count:], response[max(count - len(prompt), 0) :], plain_row)

        if len(ids := ids_without(0)) <= self.max_length:
            return self.as_row({"input_ids": ids})
        counts = range(len(prompt) + len(response) + 1)
        count = bisect_left(counts, True, key=lambda count: len(ids_without(count)) <= self.max_length)
        if count == len(counts):
            raise UserError(
                f"rewards.{self.name}: the template without prompt and response is longer than {self.max_length} "
                f"tokens; shorten it and the columns that it has, or raise rewards.{self.name}.max_tokens."
            )
        return self.as_row({"input_ids": ids_without(count)})

    def _plain(self, text: str) -> str:
        """The text without the judge's special tokens, with which it could end its own turn and answer the question."""
        return self._special.sub(" ", encodable(text))

    def _ids(self, prompt: str, response: str, row: Mapping[str, str]) -> list[int]:
        text = self.settings.read_text(prompt, response, row)
        if not self.tokenizer.chat_template:
            return list(self.tokenizer(text)["input_ids"])
        message = [{"role": "user", "content": text}]
        with working_on(f"The chat template of {self.source}"):
            ids = self.tokenizer.apply_chat_template(
                message, add_generation_prompt=True, return_dict=True, **self.settings.chat_options
            )["input_ids"]
        return list(ids)

    def _log_odds(self, batch: Any) -> Any:
        """(B,), in float64, from rows padded on the left."""
        from mapft.utils.forward import model_inputs

        inputs = model_inputs(self.model, batch["input_ids"], batch["attention_mask"])
        logits = self.model(**inputs, logits_to_keep=1).logits[:, -1].double()
        return logits[:, self._yes_W].logsumexp(-1) - logits[:, self._no_W].logsumexp(-1)
