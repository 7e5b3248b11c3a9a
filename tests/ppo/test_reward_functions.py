"""Truth: calls counted in the test."""

from functools import partial

import pytest

from mapft.ppo import reward_functions
from mapft.utils.errors import UserError
from tests.ppo.trainers import Record, make_trainer


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


def test_a_function_that_returns_none_is_named(tmp_path):
    def forgets(completions, **_):
        pass

    with pytest.raises(UserError, match="'forgets' returned None"):
        make_trainer(tmp_path, [forgets]).train()


def test_an_error_of_a_reward_function_is_one_sentence_with_its_name(tmp_path):
    def unreachable(completions, **_):
        raise ConnectionError("judge is down")

    with pytest.raises(UserError, match="'unreachable' raised ConnectionError: judge is down"):
        make_trainer(tmp_path, [unreachable]).train()


class Flaky:
    """A remote reward that raises in its first two calls."""

    __name__ = "flaky"

    def __init__(self):
        self.calls = 0

    def __call__(self, completions, **_):
        self.calls += 1
        if self.calls < 3:
            raise ConnectionError(f"call {self.calls}")
        return [0.0] * len(completions)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_remote_reward_function_is_called_again(tmp_path, monkeypatch, caplog, asynchronous):
    monkeypatch.setattr(reward_functions, "FIRST_WAIT", 0.01)
    flaky = Flaky()

    async def flaky_async(completions, **_):
        return flaky(completions)

    function = flaky_async if asynchronous else flaky
    with pytest.raises(UserError, match="raised ConnectionError: call 2"):
        make_trainer(tmp_path, [function], reward_retries=1).train()
    flaky.calls = 0
    caplog.clear()
    make_trainer(tmp_path, [function], reward_retries=2).train()
    assert flaky.calls == 3
    failures = [message.split(";")[1] for message in caplog.messages if "raised ConnectionError" in message]
    assert failures == [" call 2 of 3 follows in 0.01 s.", " call 3 of 3 follows in 0.02 s."]


def test_a_user_error_is_not_retried(tmp_path):
    calls = []

    def mistaken(completions, **_):
        calls.append(1)
        raise UserError("no such model")

    with pytest.raises(UserError, match="^no such model$"):
        make_trainer(tmp_path, [mistaken], reward_retries=5).train()
    assert len(calls) == 1


def test_the_loss_of_another_process_is_not_blamed_on_the_function():
    calls, lost = [], RuntimeError("[/torch/gloo/transport/tcp/pair.cc:544] Connection closed by peer")

    def gathers(completions):
        calls.append(1)
        raise lost

    with pytest.raises(RuntimeError) as caught:
        reward_functions.with_retries(gathers, retries=5)(completions=[])
    assert (caught.value, len(calls)) == (lost, 1)


def test_an_interrupt_is_not_retried():
    def interrupted(completions):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reward_functions.with_retries(interrupted, retries=5)(completions=[])


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


def test_a_reward_that_is_not_finite_is_an_error_that_names_the_function(tmp_path):
    def broken(completions, **_):
        return [float("nan") if i == 3 else 0.0 for i in range(len(completions))]

    with pytest.raises(UserError, match="'broken' returned nan for response 3"):
        make_trainer(tmp_path, [broken]).train()
