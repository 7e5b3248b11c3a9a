"""Programs that start from the last answer. Truth: scipy's linprog, each from scratch, and the duality of prices."""

from concurrent.futures import ThreadPoolExecutor

import highspy
import numpy as np
import pytest
from scipy.optimize import linprog

from mapft.palette.program import Extras, ShareProgram

VALUES = 4


def from_scratch(points_nV, simplex_n, totals_P, gain_V, bound_V, extra_gain_U, extra_VU):
    bounded_V = np.isfinite(bound_V)
    levels = np.hstack([points_nV.T, extra_VU])[bounded_V]
    sums = np.hstack([simplex_n == np.arange(len(totals_P))[:, None], np.zeros((len(totals_P), len(extra_gain_U)))])
    result = linprog(
        -np.concatenate([points_nV @ gain_V, extra_gain_U]),
        A_ub=-levels,
        b_ub=-bound_V[bounded_V],
        A_eq=sums,
        b_eq=totals_P,
        bounds=[(0, None)] * len(points_nV) + [(-3, 2)] * len(extra_gain_U),
    )
    return None if result.status == 2 else -result.fun


@pytest.mark.parametrize("simplices", [1, 5])
def test_a_sequence_of_questions_has_the_answers_of_each_alone(simplices):
    rng = np.random.default_rng(simplices)
    totals_P = rng.dirichlet(np.ones(simplices))
    points_nV, simplex_n = rng.normal(size=(3 * simplices, VALUES)), np.tile(np.arange(simplices), 3)
    program = ShareProgram(points_nV, simplex_n, totals_P)
    answers = {"feasible": 0, "infeasible": 0}
    for _ in range(150):
        extras = int(rng.integers(0, 3))
        gain_V, bound_V = rng.normal(size=VALUES), 1.5 * rng.normal(size=VALUES)
        bound_V[rng.random(VALUES) < 0.3] = -np.inf
        extra_gain_U, extra_VU = rng.normal(size=extras), rng.normal(size=(VALUES, extras))
        unknowns = Extras(extra_gain_U, extra_VU, (-3.0, 2.0)) if extras else None
        with program.question(gain_V, bound_V, unknowns):
            for new in range(2):
                if new:
                    more_nV, more_n = rng.normal(size=(1, VALUES)), rng.integers(0, simplices, 1)
                    program.add_points(more_nV, more_n)
                    points_nV, simplex_n = np.vstack([points_nV, more_nV]), np.append(simplex_n, more_n)
                truth = from_scratch(points_nV, simplex_n, totals_P, gain_V, bound_V, extra_gain_U, extra_VU)
                if truth is None:
                    answers["infeasible"] += 1
                    with pytest.raises(ArithmeticError, match="Infeasible"):
                        program.optimum()
                    continue
                answers["feasible"] += 1
                best = program.optimum()
                assert best.value == pytest.approx(truth, abs=1e-8)
                assert gain_V @ best.level_V + extra_gain_U @ best.extra_U == pytest.approx(truth, abs=1e-8)
                assert (best.level_V + extra_VU @ best.extra_U >= bound_V - 1e-8).all()
                priced_n = points_nV @ (gain_V + best.prices_V)
                highest_P = [priced_n[simplex_n == simplex].max() for simplex in range(simplices)]
                of_unknowns_U = extra_gain_U + best.prices_V @ extra_VU
                dual = totals_P @ highest_P + np.maximum(-3 * of_unknowns_U, 2 * of_unknowns_U).sum()
                paid = best.prices_V[np.isfinite(bound_V)] @ bound_V[np.isfinite(bound_V)]
                assert dual - paid == pytest.approx(truth, abs=1e-8)
    assert min(answers.values()) > 10


def best_of_unit_points() -> float:
    program = ShareProgram(np.eye(VALUES))
    with program.question(np.arange(VALUES), np.zeros(VALUES)):
        return program.optimum().value


def test_nothing_is_printed(capfd):
    assert best_of_unit_points() == pytest.approx(VALUES - 1)
    assert capfd.readouterr() == ("", "")


def test_beside_a_program_of_the_same_thread_that_uses_more_threads():
    """HiGHS has one scheduler per thread, whose number of threads the first program decides."""

    def both() -> float:
        other = highspy.Highs()
        other.setOptionValue("output_flag", False)
        other.setOptionValue("threads", 8)
        other.addVar(0.0, 1.0)
        assert other.run() == highspy.HighsStatus.kOk
        alone = highspy.Highs()
        alone.setOptionValue("output_flag", False)
        alone.setOptionValue("threads", 1)
        alone.addVar(0.0, 1.0)
        assert alone.run() == highspy.HighsStatus.kError
        return best_of_unit_points()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(both).result() == pytest.approx(VALUES - 1)


def test_a_number_that_highs_refuses_is_no_silent_gap():
    program = ShareProgram(np.eye(VALUES))
    with pytest.raises(ArithmeticError, match="refuses"):
        program.add_points(np.full((1, VALUES), 1e300))
