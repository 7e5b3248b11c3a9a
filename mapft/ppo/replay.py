"""Replay: scored responses of the pilot and of earlier rollouts, kept to learn from again.

p_lam is the one policy under which log pi(y|x)/p0(y|x) - R(x,y)/kl_coef is the same number for all responses y to a
prompt x (`loss.variance_loss`). That holds for responses of any policy, so old ones stay useful; and the scores are
raw, so a new lambda only changes their weights.

Legend: K responses to one prompt, V raw scores.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from mapft.utils.files import parsing, write_atomically
from mapft.utils.seeds import derive_seed

STORE = "replay.pt"  # in a checkpoint
TYPES = {"prompt_ids": "i", "completion_ids": "i", "scores": "d", "ref_logp": "d"}  # int32 and float64, of `array`

Price = Callable[[Tensor], Tensor]
Packed = dict[str, Tensor]  # groups as flat arrays, see `packed`


@dataclass
class Group:
    """K >= 2 scored responses to one prompt, in arrays: a million responses of 32 tokens take .5 GB, as lists 2 GB.

    prompt_ids (prompt tokens,); completion_ids: one array (tokens,) per response; scores: one array (V,) per response;
    ref_logp (K,): log p0(y|x) in nats, empty until the trainer adds it. Sequences of numbers are made arrays.
    """

    prompt_ids: Sequence[int]
    completion_ids: Sequence[Sequence[int]]
    scores: Sequence[Sequence[float]]
    ref_logp: Sequence[float]

    def __post_init__(self) -> None:
        """Make the arrays."""
        self.prompt_ids = array(TYPES["prompt_ids"], self.prompt_ids)
        self.completion_ids = [array(TYPES["completion_ids"], ids) for ids in self.completion_ids]
        self.scores = [array(TYPES["scores"], scores) for scores in self.scores]
        self.set_ref_logp(self.ref_logp)

    def set_ref_logp(self, ref_logp: Iterable[float]) -> None:
        """Keep log p0(y|x) of every response."""
        self.ref_logp = array(TYPES["ref_logp"], ref_logp)

    def __len__(self) -> int:
        """K."""
        return len(self.completion_ids)


class ReplayStore:
    """The newest groups, up to `capacity` responses per process.

    price: R (N,) of raw scores (N, V), as the current reward functions would give it. columns: the names under which
    reward functions log the V raw scores with `log_extra`; by default these are the outputs of the reward functions.
    groups: scored already; the same on every process, each of which then keeps its share (`keep_share`).
    """

    def __init__(self, capacity: int, price: Price, columns: Sequence[str] = (), groups: Iterable[Group] = ()) -> None:
        self.capacity, self.price, self.columns, self.groups = capacity, price, list(columns), list(groups)

    @property
    def responses(self) -> int:
        """Number of responses of this process."""
        return sum(map(len, self.groups))

    def add(self, groups: Iterable[Group]) -> None:
        """Add groups, and drop the oldest ones beyond the capacity."""
        self.groups.extend(groups)
        self._trim()

    def _trim(self) -> None:
        surplus, oldest = self.responses - self.capacity, 0
        while surplus > 0:
            surplus -= len(self.groups[oldest])
            oldest += 1
        del self.groups[:oldest]

    def sample(self, responses: int, seed: int) -> list[Group]:
        """Different groups at random, with `responses` responses or a few more; all groups where there are fewer."""
        order = torch.randperm(len(self.groups), generator=torch.Generator().manual_seed(seed))
        chosen: list[Group] = []
        for number in order[: max(responses, 0)].tolist():
            if responses <= 0:
                break
            chosen.append(self.groups[number])
            responses -= len(chosen[-1])
        return chosen

    def part_of_pass(self, responses: int, number: int, seed: int) -> list[Group]:
        """Part `number`, of about `responses` responses, of passes over all groups, each pass in its own order."""
        size = groups_per_part(self.groups, responses)
        repetition, part = divmod(number, math.ceil(len(self.groups) / size))
        generator = torch.Generator().manual_seed(derive_seed(seed, "pass", repetition))
        order = torch.randperm(len(self.groups), generator=generator).tolist()
        return [self.groups[row] for row in order[part * size : (part + 1) * size]]

    def keep_share(self, process: int, processes: int) -> None:
        """Keep every processes-th group, so that each process has its own; none where some process would have none."""
        self.groups = self.groups[process::processes] if len(self.groups) >= processes else []
        self._trim()

    def save(self, path: Path, *, is_main: bool) -> None:
        """Write the groups of all processes, atomically; every process must call this."""
        stores: list[Packed] = gather_object([packed(self.groups)])
        if is_main:
            content = {"columns": self.columns, "stores": stores}
            write_atomically(path, lambda temporary: torch.save(content, temporary))

    def load(self, path: Path, process: int, processes: int) -> None:
        """Read what `save` wrote; with another number of processes, the groups are distributed anew."""
        stores: list[Packed] = torch.load(path, weights_only=True)["stores"]
        if len(stores) == processes:
            self.groups = list(unpacked(stores[process]))
        else:
            self.groups = [group for store in stores for group in unpacked(store)]
            self.keep_share(process, processes)


def packed(groups: Sequence[Group]) -> Packed:
    """The groups as flat arrays, which are quick to write and to send; `unpacked` makes the same groups of them."""
    rows: dict[str, list[Any]] = {
        "prompt_ids": [group.prompt_ids for group in groups],
        "completion_ids": [ids for group in groups for ids in group.completion_ids],
        "scores": [scores for group in groups for scores in group.scores],
        "ref_logp": [group.ref_logp for group in groups],
    }
    arrays = {"sizes": torch.tensor([len(group) for group in groups])}
    for name, kind in TYPES.items():
        flat = array(kind)
        for row in rows[name]:
            flat.extend(row)
        arrays[name] = torch.from_numpy(np.asarray(flat))
        arrays[f"{name}_lengths"] = torch.tensor([len(row) for row in rows[name]])
    return arrays


def unpacked(arrays: Packed) -> Iterator[Group]:
    """The groups that `packed` received."""
    rows = {name: _rows(kind, arrays[name], arrays[f"{name}_lengths"]) for name, kind in TYPES.items()}
    for size in arrays["sizes"].tolist():
        completions, scores = (list(islice(rows[name], size)) for name in ("completion_ids", "scores"))
        yield Group(next(rows["prompt_ids"]), completions, scores, next(rows["ref_logp"]))


def _rows(kind: str, flat: Tensor, lengths: Tensor) -> Iterator[array]:
    numbers, start = array(kind, flat.numpy().tobytes()), 0
    for length in lengths.tolist():
        yield numbers[start : start + length]
        start += length


def groups_per_part(groups: Sequence[Group], responses: int) -> int:
    """The number of groups that has about so many responses."""
    return max(1, round(responses * len(groups) / sum(map(len, groups))))


def flattened(groups: Iterable[Group]) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """Token ids of prompt and response, one of each per response."""
    pairs = [(group.prompt_ids, ids) for group in groups for ids in group.completion_ids]
    return [prompt for prompt, _ in pairs], [response for _, response in pairs]


def read_groups(path: Path, columns: Sequence[str]) -> list[Group]:
    """The groups that `ReplayStore.save` wrote, with the raw scores of these columns only, in this order.

    UserError for a file of another version.
    """
    with parsing(path):
        content = torch.load(path, weights_only=True)
        order = [content["columns"].index(name) for name in columns]
        groups = [group for arrays in content["stores"] for group in unpacked(arrays)]
    for group in groups:
        group.scores = [array(TYPES["scores"], [scores[number] for number in order]) for scores in group.scores]
    return groups


def distinct(groups: Iterable[Group]) -> list[Group]:
    """The groups without repetitions of the same responses to the same prompt with the same scores, in their order."""
    first: dict[Any, Group] = {}
    for group in groups:
        content: tuple[Any, ...] = (group.prompt_ids, *group.completion_ids, *group.scores)
        first.setdefault(tuple(row.tobytes() for row in content), group)
    return list(first.values())
