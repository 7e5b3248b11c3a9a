"""The requests of the page: plain data in, plain data out. Numbers come from `Board`; `answers` describes a solution.

A palette is {"unit": unit, "positions": [number, or null for a free value, in the order of the values]}. Levels are in
the order of the values too, so that the name of a value is never a key.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mapft.palette import Palette
from mapft.palette.explain import display_units, format_number
from mapft.ui import answers
from mapft.ui.board import UNITS, Board
from mapft.ui.palettes import SavedPalettes, command_line
from mapft.ui.tuned import Tuned, scores
from mapft.utils.errors import UserError

INITIAL_UNIT, INITIAL_QUANTILE = "quantile", 0.7  # of every slider, where the scores come without a palette
METHODS = ("interpolate", "priority", "least_change")  # of `adjust`
QUANTILES = np.linspace(0, 1, 201)  # levels that the page interpolates between
MAX_DOTS = 300  # samples in the plot
MAX_PROMPTS = 50  # in the list
MAX_ANSWERS = 12  # of a prompt


class Page:
    """The page of one board.

    folder: where palettes are saved. command: `mapft run` with the settings of the scores. targets: of the run's
    palette, with which the page begins. tuned: the evaluation of a trained run.
    """

    def __init__(
        self,
        board: Board,
        folder: Path,
        command: str = "mapft run",
        *,
        source: str = "",
        targets: dict[str, float] | None = None,
        tuned: Tuned | None = None,
    ) -> None:
        self.board, self.saved, self.command, self.source = board, SavedPalettes(folder), command, source
        self.targets, self.tuned = targets or {}, tuned
        self.values = list(board.matrix.values)

    @property
    def handlers(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        """The requests by path."""
        requests = [self.start, self.solve, self.limits, self.around, self.bands, self.level, self.nearest]
        requests += [self.convert, self.prompts, self.answers, self.save, self.load]
        return {f"/{request.__name__}": request for request in requests}

    # ------------------------------------------------------------------ the whole page

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """What does not depend on the palette."""
        matrix, board = self.board.matrix, self.board
        dots = matrix.scores[:: max(1, len(matrix) // MAX_DOTS)]
        values = [
            {
                "name": name,
                "base": matrix.base[name],
                "sd": matrix.sd[name],
                "base_text": format_number(matrix.base[name], display_units(matrix, name)[0]),
                "spans": {unit: board.span(unit, name) for unit in UNITS},
                "base_at": {unit: board.position(unit, name, matrix.base[name]) for unit in UNITS},
                "quantiles": np.quantile(matrix.column(name), QUANTILES).tolist(),
            }
            for name in self.values
        ]
        return {
            "values": values,
            "dots": answers.points(dots),
            "rows": len(matrix),
            "prompts": len(matrix.groups.sizes),
            "source": self.source,
            "texts": bool(board.prompt_texts),
            "tuned": self.tuned.summary(board) if self.tuned else None,
            "initial": self._initial(),
            "saved": self.saved.names(),
        }

    def _initial(self) -> dict[str, Any]:
        if self.targets:
            return self._exact(INITIAL_UNIT, self.targets)
        return {"unit": INITIAL_UNIT, "positions": [INITIAL_QUANTILE] * len(self.values)}

    # ------------------------------------------------------------------ a palette

    def solve(self, request: dict[str, Any]) -> dict[str, Any]:
        """Verdict, figures and levels of a palette, and the command that trains it under `name`."""
        view = self.board.view(self._palette(request))
        command = command_line(self.command, request["unit"], self._targets(request), str(request["name"]))
        return answers.solution(view, self.board) | {"command": command}

    def limits(self, request: dict[str, Any]) -> dict[str, Any]:
        """The largest level of every value given the other targets; null where these are infeasible."""
        limits = self.board.limits(self._palette(request))
        return {"limits": [answers.finite(limits[name]) for name in self.values]}

    def around(self, request: dict[str, Any]) -> dict[str, Any]:
        """Feasible region, front and contours of the two values in `pair`."""
        palette, board, (first, second) = self._palette(request), self.board, self._pair(request)
        try:
            region = board.region(first, second, palette.targets)
        except UserError:  # the targets of the other values are infeasible by themselves
            region = np.zeros((0, 2))
        kl = board.view(palette).solution.kl
        contours = board.contours(first, second).items()
        return {
            "pair": request["pair"],
            "free": answers.points(board.region(first, second)),
            "region": answers.points(region),
            "front": answers.points(board.front(first, second, kl)) if kl > 0 else [],
            "contours": [{"kl": kl, "points": answers.points(front)} for kl, front in contours],
        }

    def bands(self, request: dict[str, Any]) -> dict[str, Any]:
        """Bootstrap intervals of a feasible palette."""
        return answers.bands(self.board.uncertainty(self._palette(request)))

    def level(self, request: dict[str, Any]) -> dict[str, Any]:
        """KL of the palette with two levels in the place of its targets of `pair`; null where that is infeasible."""
        palette, pair = self._palette(request), self._pair(request)
        levels = dict(zip(pair, map(float, request["at"]), strict=True))
        kl = self.board.kl(Palette({**palette.targets, **levels}))
        return {"levels": [self._text(name, level) for name, level in levels.items()], "kl": answers.finite(kl)}

    def nearest(self, request: dict[str, Any]) -> dict[str, Any]:
        """The nearest feasible palette by each method."""
        palette, unit, matrix = self._palette(request), request["unit"], self.board.matrix
        found = []
        for method in METHODS:
            adjustment = self.board.nearest(palette, method)
            new = adjustment.new.targets
            found.append(
                {
                    "method": method,
                    **self._exact(unit, new),
                    "targets": [new.get(name) for name in self.values],
                    "kl": adjustment.solution.kl,
                    "ess": adjustment.solution.ess,
                    "changes": [
                        {
                            "name": name,
                            "old": self._text(name, old),
                            "new": self._text(name, new[name]),
                            "sd": (new[name] - old) / matrix.sd[name] if matrix.sd[name] > 0 else 0.0,
                        }
                        for name, old in palette.targets.items()
                    ],
                }
            )
        return {"nearest": found}

    def convert(self, request: dict[str, Any]) -> dict[str, Any]:
        """The same levels in the unit `to`."""
        targets = self._palette(request).targets if self._targets(request) else {}
        return {"unit": request["to"], "positions": self._positions(request["to"], targets)}

    # ------------------------------------------------------------------ texts

    def prompts(self, request: dict[str, Any]) -> dict[str, Any]:
        """Prompts that contain the words of `query`, of the pilot or held out (`measured`)."""
        texts, words = self._prompt_texts(request), str(request["query"]).lower().split()
        matches = [number for number, text in texts.items() if all(word in text.lower() for word in words)]
        listed = [{"id": number, "text": texts[number]} for number in matches[:MAX_PROMPTS]]
        return {"prompts": listed, "count": len(matches)}

    def answers(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers to a prompt: of the pilot with their probability under p_lam, or those of base and tuned model."""
        number, texts = int(request["prompt"]), self._prompt_texts(request)
        if number not in texts:
            return {"prompt": "", "answers": []}
        if request["measured"] and self.tuned:
            base, tuned = self.tuned.answers(number, self.board)
            return {"prompt": texts[number], "base": base[:MAX_ANSWERS], "tuned": tuned[:MAX_ANSWERS]}
        view = self.board.view(self._palette(request))
        if not view.feasible:
            return {"prompt": texts[number], "answers": []}
        responses, probability_K, scores_KV = self.board.candidates(number, view.solution)
        order = np.argsort(-probability_K, kind="stable")[:MAX_ANSWERS]
        return {
            "prompt": texts[number],
            "base": 1 / len(responses),
            "answers": [
                {
                    "text": responses[k],
                    "probability": float(probability_K[k]),
                    "scores": scores(self.board, dict(zip(self.values, scores_KV[k], strict=True))),
                }
                for k in order
            ],
        }

    # ------------------------------------------------------------------ files

    def save(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write the palette to a file."""
        self._palette(request)
        name = str(request["name"])
        path = self.saved.save(name, request["unit"], self._targets(request))
        message = f"Saved as {path}; copied to conf/palette it is selected with palette={name}."
        return {"message": message, "saved": self.saved.names()}

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Unit and positions of a saved palette."""
        name = str(request["name"])
        unit, targets = self.saved.load(name)
        try:
            self.board.palette(unit, targets)
            self.board.matrix.index(list(targets))
        except UserError as error:
            raise UserError(f"{name}.yaml is not a palette of these values ({error}); choose another one.") from error
        return {"unit": unit, "positions": [targets.get(value) for value in self.values]}

    # ------------------------------------------------------------------ parts of requests

    def _targets(self, request: dict[str, Any]) -> dict[str, float]:
        """Positions by value name, free values left out."""
        named = zip(self.values, request["positions"], strict=True)
        return {name: float(position) for name, position in named if position is not None}

    def _palette(self, request: dict[str, Any]) -> Palette:
        targets = self._targets(request)
        if not targets:
            raise UserError("The palette has no target; tick a value.")
        return self.board.palette(request["unit"], targets)

    def _positions(self, unit: str, targets: Mapping[str, float]) -> list[float | None]:
        if unit not in UNITS:
            raise UserError(f"unit={unit!r} is unknown; use one of {', '.join(UNITS)}.")
        return [self.board.position(unit, name, targets[name]) if name in targets else None for name in self.values]

    def _exact(self, unit: str, targets: Mapping[str, float]) -> dict[str, Any]:
        """Unit and positions of targets: absolute where they are below the base level, which no quantile stands for."""
        if unit == "quantile" and any(target < self.board.matrix.base[name] for name, target in targets.items()):
            unit = "absolute"
        return {"unit": unit, "positions": self._positions(unit, targets)}

    def _pair(self, request: dict[str, Any]) -> tuple[str, str]:
        first, second = (self.values[int(number) % len(self.values)] for number in request["pair"])
        return first, second

    def _prompt_texts(self, request: dict[str, Any]) -> dict[int, str]:
        return self.tuned.prompt_texts if request["measured"] and self.tuned else self.board.prompt_texts

    def _text(self, name: str, level: float) -> str:
        return format_number(level, display_units(self.board.matrix, name)[0])
