"""Answers of language models become the class they name, and its probability among the classes."""

import math

import pytest

from distilkit.engine.inference.class_answers import Step, Token, class_logprobs, name_class

SENTIMENT = ("negative", "positive")
NESTED = ("neg", "negative", "neutral", "neutral-negative")


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("positive", "positive"),
        ("Positive.", "positive"),
        (' **"POSITIVE"**\n', "positive"),
        ("positive - it praises the cast, though negative words occur", "positive"),
        ("The sentiment is positive.", "positive"),
        ("Label: negative", "negative"),
        ('{"label": "negative"}', "negative"),
        ("<think>negative? no.</think>\n\npositive", "positive"),
        ("", None),
        ("happy", None),
        ("positively", None),
        ("not positive", None),
        ("positive or negative", None),
        ("positive/negative", None),
        ("I cannot say whether it is positive", None),
        ("It is either positive or it is negative", None),
        ("pos", None),
    ],
)
def test_an_answer_names_the_class_that_a_person_would_read_or_none(answer: str, name: str | None) -> None:
    """A refusal that mentions a class would otherwise become a label."""
    class_id = name_class(answer, SENTIMENT)
    assert (None if class_id is None else SENTIMENT[class_id]) == name


@pytest.mark.parametrize("name", NESTED)
def test_of_classes_that_begin_alike_the_longest_counts(name: str) -> None:
    for answer in (name, f" {name.title()}.", f"The answer is {name}", f'"{name}"'):
        assert NESTED[name_class(answer, NESTED)] == name  # type: ignore[index]


def test_marks_that_belong_to_a_class_are_not_stripped() -> None:
    names = ("c", "c#", "c++", "-1", "1")
    for i, name in enumerate(names):
        assert name_class(f" {name}\n", names) == i


def step(token: str, **top: float) -> Step:
    """A step with these probabilities; `_` stands for a blank, and the first token was written."""
    tokens = tuple(Token(text.replace("_", " "), math.log(value)) for text, value in top.items())
    return Step(next(item for item in tokens if item.text == token), tokens)


def probabilities(steps: list[Step], answer: str, names: tuple[str, ...]) -> dict[str, float]:
    values = class_logprobs(steps, answer, names).values
    assert math.fsum(map(math.exp, values)) == pytest.approx(1)
    return {name: math.exp(value) for name, value in zip(names, values, strict=True)}


def test_tokens_count_for_a_class_whatever_their_case_and_blanks() -> None:
    steps = [step("Positive", Positive=0.4, _positive=0.2, pos=0.1, _Neg=0.2, NEGATIVE=0.05, the=0.05)]
    assert probabilities(steps, "Positive", SENTIMENT) == pytest.approx(
        {"positive": 0.7 / 0.95, "negative": 0.25 / 0.95}
    )


def test_a_class_that_begins_like_another_is_told_from_it_by_the_next_token() -> None:
    """`neg` is a class and the beginning of another: its first token says nothing of which."""
    names = ("neg", "negative", "positive")
    steps = [
        step("neg", neg=0.8, positive=0.2),
        step("ative", ative=0.75, **{"<|im_end|>": 0.25}),
        step(".", **{".": 1.0}),
    ]
    expected = {"neg": 0.2, "negative": 0.6, "positive": 0.2}
    assert probabilities(steps, "negative.", names) == pytest.approx(expected, abs=1e-6)
    ended = [step("neg", neg=0.8, positive=0.2)]
    assert probabilities(ended, "neg", names) == pytest.approx(
        {"neg": 0.8, "negative": 0.0, "positive": 0.2}, abs=1e-6
    )


def test_a_class_of_several_words_is_followed_to_its_end() -> None:
    names = ("very bad", "very good", "fine")
    steps = [step("very", very=0.9, fine=0.1), step(" good", _good=0.6, _bad=0.4)]
    assert probabilities(steps, "very good", names) == pytest.approx(
        {"very bad": 0.36, "very good": 0.54, "fine": 0.1}
    )


def test_words_and_marks_before_the_class_are_passed_over() -> None:
    lead = [step("The", The=1.0), step(" label", _label=1.0), step(" is", _is=1.0)]
    steps = [*lead, step(" positive", _positive=0.9, _negative=0.1)]
    expected = {"positive": 0.9, "negative": 0.1}
    assert probabilities(steps, "The label is positive", SENTIMENT) == pytest.approx(expected)
    marks = [
        step("\n", **{"\n": 1.0}),
        step("**", **{"**": 1.0}),
        step("positive", positive=0.9, negative=0.1),
    ]
    assert probabilities(marks, "\n**positive", SENTIMENT) == pytest.approx(expected)


def test_a_class_that_the_likeliest_tokens_lack_gets_no_more_than_the_least_of_them() -> None:
    """A list that is cut off says that the probability is small, not that it is what is left."""
    names = ("a", "b", "c", "d")
    steps = [step("a", a=0.6, b=0.05, x=0.05)]
    answer = class_logprobs(steps, "a", names)
    assert answer.is_truncated
    total = 0.6 + 0.05 + 2 * 0.05
    assert [math.exp(value) for value in answer.values] == pytest.approx(
        [0.6 / total, 0.05 / total, 0.05 / total, 0.05 / total]
    )
    assert not class_logprobs([step("a", a=0.6, b=0.2, c=0.1, d=0.1)], "a", names).is_truncated


def test_impossible_tokens_and_lists_without_alternatives_give_finite_numbers() -> None:
    token = Token("positive", 0.0)
    for steps in ([Step(token, ())], [Step(token, (token, Token("negative", -math.inf)))]):
        values = class_logprobs(steps, "positive", SENTIMENT).values
        assert all(math.isfinite(value) for value in values) and values[1] > -1e-6
