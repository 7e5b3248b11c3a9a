"""Replay: scored responses of the pilot and of earlier rollouts, kept to learn from again.

p_lam is the one policy under which log pi(y|x)/p0(y|x) - R(x,y)/kl_coef is the same number for all responses y to a
prompt x (`loss.variance_loss`). That holds for responses of any policy, so old ones stay useful; and the scores are
raw, so a new lambda only changes their weights.

Legend: K responses to one prompt, V raw scores.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from mapft.utils.files import write_atomically
from mapft.utils.seeds import derive_seed

STORE = "replay.pt"  # in a checkpoint

Price = Callable[[Tensor], Tensor]


@dataclass
class Group:
    """K >= 2 scored responses to one prompt. ref_logp: log p0(y|x) in nats; empty until the trainer adds it."""

    prompt_ids: list[int]
    completion_ids: list[list[int]]
    scores: list[list[float]]
    ref_logp: list[float]

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
        surplus = self.responses - self.capacity
        while surplus > 0:
            surplus -= len(self.groups.pop(0))

    def sample(self, responses: int, seed: int) -> list[Group]:
        """Different groups at random, with `responses` responses or a few more; all groups where there are fewer."""
        order = torch.randperm(len(self.groups), generator=torch.Generator().manual_seed(seed))
        chosen: list[Group] = []
        for number in order.tolist():
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
        stores: list[list[Group]] = gather_object([self.groups])
        if is_main:
            content = {"columns": self.columns, "stores": [[asdict(group) for group in groups] for groups in stores]}
            write_atomically(path, lambda temporary: torch.save(content, temporary))

    def load(self, path: Path, process: int, processes: int) -> None:
        """Read what `save` wrote; with another number of processes, the groups are distributed anew."""
        stores: list[list[dict[str, Any]]] = torch.load(path, weights_only=True)["stores"]
        if len(stores) == processes:
            self.groups = [Group(**group) for group in stores[process]]
        else:
            self.groups = [Group(**group) for groups in stores for group in groups]
            self.keep_share(process, processes)


def groups_per_part(groups: Sequence[Group], responses: int) -> int:
    """The number of groups that has about so many responses."""
    return max(1, round(responses * len(groups) / sum(map(len, groups))))


def flattened(groups: Iterable[Group]) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of prompt and response, one of each per response."""
    pairs = [(group.prompt_ids, ids) for group in groups for ids in group.completion_ids]
    return [prompt for prompt, _ in pairs], [response for _, response in pairs]


def read_groups(path: Path, columns: Sequence[str]) -> list[Group]:
    """The groups that `ReplayStore.save` wrote, with the raw scores of these columns only, in this order."""
    content = torch.load(path, weights_only=True)
    order = [content["columns"].index(name) for name in columns]
    groups = [Group(**group) for groups in content["stores"] for group in groups]
    for group in groups:
        group.scores = [[scores[number] for number in order] for scores in group.scores]
    return groups


def distinct(groups: Iterable[Group]) -> list[Group]:
    """The groups without repetitions of the same responses to the same prompt with the same scores, in their order."""
    first: dict[Any, Group] = {}
    for group in groups:
        responses = tuple(zip(map(tuple, group.completion_ids), map(tuple, group.scores), strict=True))
        first.setdefault((tuple(group.prompt_ids), responses), group)
    return list(first.values())
