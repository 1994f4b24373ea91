"""A sample that is not of the form that was asked for never wins while one is."""

from __future__ import annotations

import pytest

from selfeval_backend.chat import AnswerForm, JsonForm, Message, ToolForm, ToolSpec
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import Answer, SelfEvaluatingModel
from selfeval_backend.selfeval import SelfEvalConfig
from tests.conftest import ModelFactory

CHAT = ScriptedChat()
QUESTION = [Message(role="user", content="Give JSON.")]
FORM = JsonForm()
ADD = ToolSpec(name="add", parameters={"type": "object", "properties": {"a": {}}})


async def ask(
    model: SelfEvaluatingModel, *, form: AnswerForm | None = FORM, **given: object
) -> Answer:
    answer = await model.answer(QUESTION, model.settings(given), form=form)
    assert isinstance(model.engine, ScriptedEngine)
    assert model.engine.num_open == 0
    return answer


async def test_a_valid_sample_wins_over_a_better_one_that_is_not(make_model: ModelFactory) -> None:
    model = make_model(
        [CHAT.response("{", 0.9), CHAT.response('{"a": 1}', 0.2), CHAT.response("[", 0.8)]
    )
    answer = await ask(model, adaptive=False, max_samples=3)
    assert answer.text == '{"a": 1}'
    assert answer.parsed is not None and answer.parsed.value == {"a": 1}
    assert [sample.valid for sample in answer.outcome.samples] == [False, True, False]
    summary = answer.summary()
    assert (summary["valid"], summary["num_invalid"]) == (True, 2)
    assert [sample["valid"] for sample in summary["samples"]] == [False, True, False]


async def test_a_confident_sample_that_is_not_valid_does_not_end_the_run(
    make_model: ModelFactory,
) -> None:
    model = make_model([CHAT.response("{", 0.99), CHAT.response("{}", 0.95)])
    answer = await ask(model, threshold=0.9, max_samples=4)
    assert answer.text == "{}"
    assert answer.outcome.stop_reason == "confident"
    assert len(answer.outcome.samples) == 2


async def test_where_none_is_valid_the_best_is_given_and_says_so(make_model: ModelFactory) -> None:
    model = make_model([CHAT.response("{", 0.3), CHAT.response("[", 0.6)])
    answer = await ask(model, max_samples=2)
    assert answer.text == "["
    assert answer.parsed is not None and not answer.parsed.valid
    assert answer.summary()["valid"] is False
    assert answer.summary()["num_invalid"] == 2


async def test_without_a_form_nothing_is_checked(make_model: ModelFactory) -> None:
    answer = await ask(make_model([CHAT.response("{", 0.99)]), form=None)
    assert answer.parsed is None
    assert answer.outcome.best_sample.valid is None
    assert (answer.summary()["valid"], answer.summary()["num_invalid"]) == (None, 0)


async def test_a_sample_that_says_nothing_wins_only_where_none_speaks(
    make_model: ModelFactory,
) -> None:
    model = make_model([CHAT.response("", 0.99), CHAT.response("Yes.", 0.95)])
    answer = await ask(model, form=None, threshold=0.9, max_samples=4)
    assert answer.text == "Yes."
    assert [sample.valid for sample in answer.outcome.samples] == [False, None]
    silent = await ask(make_model([CHAT.response("", 0.99)] * 2), form=None, max_samples=2)
    assert (silent.text, silent.summary()["valid"]) == ("", False)


@pytest.mark.parametrize("blank", [" \n\t ", "\u200b\ufeff", "\x00", "###Yes."])
async def test_a_sample_without_text_says_nothing(make_model: ModelFactory, blank: str) -> None:
    model = make_model([CHAT.response(blank, 0.99), CHAT.response("Yes.", 0.95)])
    answer = await ask(model, form=None, threshold=0.9, max_samples=4, stop=("###",))
    assert answer.text == "Yes."
    assert [sample.valid for sample in answer.outcome.samples] == [False, None]
    assert answer.summary()["num_invalid"] == 1
    alone = make_model([CHAT.response(blank, 0.99)])
    said = await ask(alone, form=None, max_samples=1, stop=("###",))
    assert said.summary()["valid"] is False


async def test_a_blank_response_is_not_judged(make_model: ModelFactory) -> None:
    with pytest.raises(ConfigurationError, match="text"):
        await make_model([CHAT.response("x", 0.5)]).judge(QUESTION, " \n")


async def test_a_blank_sample_is_of_no_form(make_model: ModelFactory) -> None:
    model = make_model([CHAT.response(" \n", 0.99), CHAT.response("Yes.", 0.95)])
    answer = await ask(model, form=ToolForm(tools=(ADD,)), adaptive=False, max_samples=2)
    assert answer.text == "Yes."


async def test_whole_samples_come_before_one_that_is_cut_off(make_model: ModelFactory) -> None:
    script = [CHAT.response("Because", 0.99, finish_reason="length"), CHAT.response("Yes.", 0.2)]
    model = make_model(script)
    answer = await ask(model, form=None, adaptive=False, max_samples=2)
    assert answer.text == "Yes."
    said = answer.summary()
    assert [sample["beyond_training"] for sample in said["samples"]] == [True, False]
    assert (said["valid"], said["num_invalid"]) == (None, 0)


async def test_training_on_samples_that_were_cut_off_lets_one_win(
    make_model: ModelFactory, config: SelfEvalConfig
) -> None:
    script = [CHAT.response("Because", 0.99, finish_reason="length"), CHAT.response("Yes.", 0.2)]
    made = make_model(script)
    trained = SelfEvaluatingModel(
        name="trained",
        engine=made.engine,
        chat=CHAT,
        config=config.model_copy(update={"trained_on_cut_off": True}),
    )
    answer = await ask(trained, form=None, threshold=0.9, max_samples=4)
    assert (answer.text, answer.outcome.stop_reason) == ("Because", "confident")


async def test_a_cut_off_sample_ends_no_run_while_whole_ones_may_come(
    make_model: ModelFactory,
) -> None:
    cut = CHAT.response("Because", 0.99, finish_reason="length")
    model = make_model([cut, CHAT.response("Yes.", 0.95)])
    answer = await ask(model, form=None, threshold=0.9, max_samples=4)
    assert (answer.text, answer.outcome.stop_reason) == ("Yes.", "confident")
    assert len(answer.outcome.samples) == 2
    alone = await ask(make_model([cut] * 2), form=None, threshold=0.9, max_samples=2)
    assert (alone.text, alone.outcome.stop_reason) == ("Because", "max_samples")
    assert alone.outcome.confidence == pytest.approx(0.99)


async def test_a_sample_is_kept_at_a_checkpoint_while_only_a_cut_off_one_is_there(
    make_model: ModelFactory,
) -> None:
    cut = CHAT.response("Bec", 0.9, finish_reason="length")
    model = make_model([cut, CHAT.response("Yes, it is.", {4: 0.1, 11: 0.3})])
    answer = await ask(
        model, form=None, batches=(1, 2), max_samples=2, prune_at=(4,), prune_below=0.9
    )
    assert answer.text == "Yes, it is."


async def test_a_sample_that_was_accepted_stays_the_answer_if_it_is_cut_off(
    make_model: ModelFactory,
) -> None:
    script = [CHAT.response("Yes.", 0.2), CHAT.response("Because", 0.99, finish_reason="length")]
    model = make_model(script)
    answer = await ask(model, form=None, max_samples=4, prune_at=(4,), accept_above=0.9)
    assert (answer.text, answer.outcome.stop_reason) == ("Because", "accepted")


async def test_a_sample_cut_at_max_tokens_is_not_valid(make_model: ModelFactory) -> None:
    model = make_model([CHAT.response('{"a": 12345}', 0.99), CHAT.response("{}", 0.1)])
    answer = await ask(model, adaptive=False, max_samples=2, max_tokens=6)
    assert answer.text == "{}"
    assert answer.outcome.samples[0].finish_reason == "length"


async def test_stop_strings_are_cut_off_before_a_sample_is_read(make_model: ModelFactory) -> None:
    model = make_model([CHAT.response('{"a": 1}###', 0.9)])
    answer = await ask(model, max_samples=1, stop=("###",))
    assert answer.parsed is not None and answer.parsed.value == {"a": 1}


async def test_one_sample_is_kept_at_a_checkpoint_while_none_is_valid(
    make_model: ModelFactory,
) -> None:
    model = make_model([CHAT.response("{", 0.1), CHAT.response('{"a": 1}', {4: 0.1, 8: 0.5})])
    answer = await ask(model, batches=(1, 2), max_samples=2, prune_at=(4,), prune_below=0.9)
    assert answer.text == '{"a": 1}'


async def test_a_sample_that_was_accepted_and_is_not_valid_ends_nothing(
    make_model: ModelFactory,
) -> None:
    model = make_model([CHAT.response('{"a": ', 0.99), CHAT.response('{"a": 1}', {4: 0.1, 8: 0.5})])
    answer = await ask(model, max_samples=2, prune_at=(4,), accept_above=0.9)
    assert answer.text == '{"a": 1}'
    assert answer.outcome.stop_reason == "max_samples"


async def test_samples_are_drawn_under_the_grammar_of_the_form(make_model: ModelFactory) -> None:
    model = make_model([CHAT.response("{}", 0.99)])
    await ask(model)
    assert isinstance(model.engine, ScriptedEngine)
    (call,) = model.engine.stream_calls
    assert call.params.grammar == FORM.grammar


async def test_tools_are_shown_and_their_calls_read(make_model: ModelFactory) -> None:
    model = make_model([CHAT.response('{"name": "add", "arguments": {"a": 1}}', 0.99)])
    form = ToolForm(tools=(ADD,))
    answer = await model.answer(QUESTION, form=form)
    assert isinstance(model.engine, ScriptedEngine)
    assert '"name": "add"' in CHAT.decode(model.engine.stream_calls[0].prompt_ids)
    assert answer.parsed is not None
    assert [call.name for call in answer.parsed.tool_calls] == ["add"]


async def test_an_engine_without_grammars_refuses_before_any_token(
    make_model: ModelFactory,
) -> None:
    model = make_model([CHAT.response("{}", 0.99)], takes_grammars=False)
    with pytest.raises(ConfigurationError) as caught:
        await ask(model)
    assert caught.value.field == "grammar"
    assert isinstance(model.engine, ScriptedEngine)
    assert model.engine.stream_calls == []
