"""Which class a language model's answer names, and how probable its tokens make each class."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

# What may stand around a class: quotes, markup, brackets, full stops.
AROUND = " \t\r\n\"'`*_#.,:;!?()[]{}<>|/\\-\u201c\u201d\u2018\u2019\u2581\u0120\u010a"
THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
NEGATION = re.compile(r"\b(not|no|cannot|can't|neither|nor|unable|unsure|\w+n't)\b", re.IGNORECASE)
MAX_LEAD_WORDS = 12  # of a sentence such as "The sentiment is positive."
LEAST = 1e-9  # probability of a class that nothing is known of; its logarithm is finite


@dataclass(frozen=True)
class Token:
    """A token that a model might have written, and the logarithm of its probability."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Step:
    """A token of an answer, and the likeliest tokens in its stead, perhaps with itself."""

    token: Token
    top: tuple[Token, ...]

    @property
    def alternatives(self) -> list[Token]:
        """Return the distinct tokens of this step, the written one among them."""
        by_text = {token.text: token for token in (*self.top, self.token)}
        return list(by_text.values())


@dataclass(frozen=True)
class ClassLogprobs:
    """Logarithms of the probabilities of all classes, which add up to 1.

    Attributes:
        is_truncated: whether a class was not among the likeliest tokens, and its probability is estimated.
    """

    values: tuple[float, ...]
    is_truncated: bool


def name_class(answer: str, class_names: Sequence[str]) -> int | None:
    """Return the class that an answer names, `None` where it names none or several.

    It does if it begins with the class, or is a short sentence that ends with it and mentions no other.
    Letter case, quotes and markup make no difference; of classes that begin alike, the longest counts.
    """
    names = _Names.of(class_names)
    text = _fold(THOUGHT.sub("", answer)).strip(names.around)
    if (first := names.find_start(text)) is not None:
        return None if names.lists_another(text[len(names.folded[first]) :]) else first
    mentioned = names.find_mentions(text)
    is_short = len(text.split()) <= MAX_LEAD_WORDS and not NEGATION.search(text)
    if is_short and len(mentioned) == 1 and text.endswith(names.folded[mentioned[0]]):
        return mentioned[0]
    return None


def class_logprobs(steps: Sequence[Step], answer: str, class_names: Sequence[str]) -> ClassLogprobs:
    """Return the probabilities of the classes, from the tokens where an answer names one.

    A token counts for the class that it begins, whatever its case, and blanks before it. Where it begins
    several, the tokens that follow decide. A class that is not among the likeliest tokens has an equal share
    of what those leave, but no more than the least of them.

    Args:
        steps: the tokens of an answer that names a class.
        answer: its text.
    """
    masses = _Masses(_Names.of(class_names), [0.0] * len(class_names))
    masses.add(steps, _first_step(steps, answer, class_names), "", 1.0)
    floored = [max(value, LEAST) for value in masses.values]
    total = math.fsum(floored)
    return ClassLogprobs(tuple(math.log(value / total) for value in floored), masses.is_truncated)


@dataclass(frozen=True)
class _Names:
    """Class names as answers are compared with them.

    Attributes:
        folded: without case.
        around: what may stand around them; no name begins or ends with it.
    """

    folded: tuple[str, ...]
    around: str

    @classmethod
    def of(cls, class_names: Sequence[str]) -> "_Names":
        folded = tuple(_fold(name).strip() for name in class_names)
        ends = {character for name in folded for character in (name[:1], name[-1:])}
        return cls(folded, "".join(character for character in AROUND if character not in ends))

    def find_start(self, text: str) -> int | None:
        """Return the longest class that a text begins with, as a word."""
        starts = [
            i for i, name in enumerate(self.folded) if text.startswith(name) and _ends_word(text, len(name))
        ]
        return max(starts, key=lambda i: len(self.folded[i]), default=None)

    def match(self, prefix: str) -> list[int]:
        """Return the classes that text after `prefix` may complete, else the one that it has completed."""
        text = prefix.lstrip(self.around)
        if open_ids := [i for i, name in enumerate(self.folded) if name.startswith(text)]:
            return open_ids
        first = self.find_start(text)
        return [] if first is None else [first]

    def find_mentions(self, text: str) -> list[int]:
        """Return the classes that stand in a text as words, but for those within longer ones."""
        mentioned = []
        for i in sorted(range(len(self.folded)), key=lambda i: -len(self.folded[i])):
            text, count = re.subn(rf"(?<!\w){re.escape(self.folded[i])}(?!\w)", " ", text)
            mentioned += [i] * bool(count)
        return mentioned

    def lists_another(self, rest: str) -> bool:
        """Return whether what follows a class names another as its equal: "positive or negative"."""
        match = re.match(r"\s*(,|/|\||or\b|and\b)+\s*(.*)", rest, re.DOTALL)
        return match is not None and any(match[2].startswith(name) for name in self.folded)


@dataclass
class _Masses:
    """Add up the probability that tokens give to each class."""

    names: _Names
    values: list[float]
    is_truncated: bool = False

    def add(self, steps: Sequence[Step], i: int, prefix: str, mass: float) -> None:
        """Share `mass` among the classes that may follow `prefix`, by the tokens of step `i` and later."""
        possible = self.names.match(prefix)
        if i >= len(steps):
            self._end(prefix, possible, mass)
            return
        reached: set[int] = set()
        listed = {token: math.exp(min(0.0, token.logprob)) for token in steps[i].alternatives}
        for token, probability in listed.items():
            text = prefix + _fold(token.text)
            matching = self.names.match(text)
            is_blank = not text.strip(self.names.around)
            if is_blank:
                if token.text == steps[i].token.text:
                    self.add(steps, i + 1, "", mass * probability)
                continue
            reached |= set(matching)
            if len(matching) == 1:
                self.values[matching[0]] += mass * probability
            elif matching and token.text == steps[i].token.text:
                self.add(steps, i + 1, text, mass * probability)
            else:
                self._end(text, matching, mass * probability)
        missing = [class_id for class_id in possible if class_id not in reached]
        if missing:
            rest = max(0.0, 1.0 - math.fsum(listed.values()))
            share = min(rest / len(missing), min((value for value in listed.values() if value), default=0.0))
            self.is_truncated = True
            for class_id in missing:
                self.values[class_id] += mass * share

    def _end(self, prefix: str, matching: Sequence[int], mass: float) -> None:
        """Give `mass` to the class that the prefix spells, else in equal shares to those that it begins."""
        text = prefix.strip(self.names.around)
        spelled = [class_id for class_id in matching if self.names.folded[class_id] == text]
        for class_id in spelled or matching:
            self.values[class_id] += mass / len(spelled or matching)


def _first_step(steps: Sequence[Step], answer: str, class_names: Sequence[str]) -> int:
    """Return the step at which an answer's class begins: the first unless words stand before it."""
    names, expected = _Names.of(class_names), name_class(answer, class_names)
    whole = "".join(step.token.text for step in steps)
    start = len(match[0]) if (match := THOUGHT.match(whole)) else 0
    begin, candidates = 0, []
    for i, step in enumerate(steps):
        if begin >= start:
            candidates.append(i)
            if names.find_start(_fold(whole[begin:]).lstrip(names.around)) == expected:
                return i
        begin += len(step.token.text)
    return candidates[0] if candidates else 0


def _fold(text: str) -> str:
    return text.replace("\u2581", " ").replace("\u0120", " ").casefold()


def _ends_word(text: str, end: int) -> bool:
    return end >= len(text) or not (text[end].isalnum() or text[end] == "_")
