"""Say in plain words what a sweep shows, and no more than its statistics do."""

from collections.abc import Iterator, Sequence

from distilkit.errors import list_names, pluralize
from distilkit.reports.sweep_document import (
    LABELS_ALONE,
    DifferenceEntry,
    Ends,
    SettingEntry,
    SweepDocument,
    name_option,
    name_value,
)

MAX_SENTENCES = 6  # of the same kind
UNKNOWN = "\u2013"  # an en dash
STEPS_TOLERANCE = 0.01  # share by which steps may differ without a word


def write_verdict(document: SweepDocument) -> list[str]:
    """Return sentences: what is better, what cannot be told apart, then what the reader must know."""
    compared = [entry for entry in document.settings if not entry.pruned]
    if not compared or document.best is None:
        main = ["No setting has finished, so there is nothing to compare."]
    elif len(compared) == 1:
        main = [_describe_single(document, compared[0])]
    elif all(len(entry.seeds) == 1 for entry in compared):
        main = [_describe_single_seeds(document)]
    elif document.compared_with == "labels_only":
        main = _describe_labels_only(document, compared)
    else:
        main = _describe_best(document, compared)
    return [*main, *_describe_teacher(document), *_describe_steps(document), *_describe_gaps(document)]


# --- the comparison ---------------------------------------------------------------------------------------


def _describe_single(document: SweepDocument, entry: SettingEntry) -> str:
    ends = f" ({entry.interval[0]:.4f} to {entry.interval[1]:.4f})" if entry.interval else ""
    seeds = pluralize(len(entry.seeds), "seed")
    return f"{entry.name} has {document.metric} {entry.mean:.4f}{ends} over {seeds}; no other setting ran."


def _describe_single_seeds(document: SweepDocument) -> str:
    assert document.best is not None
    best = document.entry(document.best)
    sentence = f"{best.name} has the best {document.metric} with a single seed, {best.mean:.4f}"
    if best.difference is not None:
        amount = _signed(document, best.difference.value)
        sentence += f" ({amount} against {reference_name(document, best.difference)})"
    return f"{sentence}; one seed cannot tell this from chance. Add seeds, such as --seed 1..5."


def _describe_labels_only(document: SweepDocument, compared: Sequence[SettingEntry]) -> list[str]:
    """Compare the settings of each labels-only reference with it; then say which cannot be told apart."""
    groups: dict[str, list[SettingEntry]] = {}
    for entry in compared:
        if entry.difference is not None:
            groups.setdefault(entry.difference.reference, []).append(entry)
    if not groups:
        return ["No setting shares a seed with labels alone, so nothing can be compared: run the same seeds."]
    sentences: list[str] = []
    for group in list(groups.values())[:MAX_SENTENCES]:
        sentences += _describe_group(document, group)
    if len(groups) > MAX_SENTENCES:
        sentences.append(f"{len(groups) - MAX_SENTENCES:,} more are in the table.")
    tied = [entry for entry in compared if entry.tied]
    if len(tied) > 1 and (len(tied) < len(compared) or _any_different(compared)):
        text = f"{list_settings(document, tied)} cannot be told apart"
        if len(groups) == 1 and sentences:
            sentences[0] = f"{sentences[0].removesuffix('.')}; {text}."
        else:
            sentences.append(f"{text[0].upper()}{text[1:]}.")
    return sentences


def _describe_group(document: SweepDocument, group: Sequence[SettingEntry]) -> Iterator[str]:
    """Say which settings are better or worse than their labels-only reference."""
    ordered = sorted(group, key=lambda entry: -improvement(document, entry))
    better = [entry for entry in ordered if _is_different(entry) and improvement(document, entry) > 0]
    worse = [entry for entry in ordered if _is_different(entry) and improvement(document, entry) < 0]
    assert ordered[0].difference is not None
    reference = reference_name(document, ordered[0].difference)
    if better:
        yield f"{better[0].name} is better than {reference} by {_amount(document, better[0])}."
        if len(better) > 1:
            verb = "is" if len(better) == 2 else "are"
            yield f"{_capitalize(list_settings(document, better[1:]))} {verb} better than {reference} too."
        if ordered[0] is not better[0]:
            yield (
                f"{_capitalize(ordered[0].name)} has a higher mean difference but varies too much over the "
                "seeds to be told from chance."
            )
    else:
        yield _describe_no_gain(document, ordered[0], reference)
    if worse:
        parts = [f"{entry.name} by {_amount(document, entry)}" for entry in worse[::-1]]
        yield f"Worse than {reference}: {_join(parts)}."


def _describe_no_gain(document: SweepDocument, entry: SettingEntry, reference: str) -> str:
    """Say that the best setting cannot be told from labels alone, and what would tell."""
    difference = entry.difference
    assert difference is not None
    if difference.different:
        return f"No setting is better than {reference}."
    ends = _signed_ends(document, difference)
    sign = 1 if document.higher_is_better else -1
    if difference.on_these_rows and sign * difference.value > 0:
        return (
            f"{entry.name} is better than {reference} by {_amount(document, entry)} on these "
            f"{document.rows:,} validation rows, {_describe_rows(difference)}."
        )
    return (
        f"No setting is better than {reference} beyond chance: {entry.name} comes closest with "
        f"{_signed(document, difference.value)}{ends}; {_describe_power(document, difference)}."
    )


def _describe_best(document: SweepDocument, compared: Sequence[SettingEntry]) -> list[str]:
    """Compare the settings with the best one, where none of them or all are on labels alone."""
    assert document.best is not None
    behind = [entry for entry in compared if entry.name != document.best]
    worse = [entry for entry in behind if _is_different(entry)]
    if not any(entry.difference for entry in behind):
        return [
            f"No setting shares a seed with {document.best}, so nothing can be compared: run the same seeds."
        ]
    if not worse:
        closest = max(behind, key=lambda entry: len(entry.difference.seeds) if entry.difference else 0)
        power = f": {_describe_power(document, closest.difference)}" if closest.difference else ""
        tied = [entry for entry in compared if entry.tied]
        return [f"{_capitalize(list_settings(document, tied))} cannot be told apart{power}."]
    parts = [f"than {entry.name} by {_amount(document, entry)}" for entry in worse]
    sentence = f"{document.best} is better {_join(parts)}"
    tied = [entry for entry in compared if entry.tied]
    if len(tied) > 1:
        sentence += f"; {list_settings(document, tied)} cannot be told apart"
    return [f"{sentence}."]


def _describe_power(document: SweepDocument, difference: DifferenceEntry) -> str:
    """Return `3 seeds cannot tell; 8 would tell 1 point`."""
    seeds, required = len(difference.seeds), document.seeds_for_point
    point = "1 point" if document.higher_is_better else "0.01"
    if seeds < 2:
        return "one common seed cannot tell"
    if required is None:
        more = f"; even {document.seeds_limit:,} would not tell {point}" if document.spread else ""
        return f"{seeds} seeds cannot tell{more}"
    if required <= seeds:
        return f"{seeds} seeds would tell {point}, so a difference is probably smaller"
    return f"{seeds} seeds cannot tell; {required:,} would tell {point}"


def _describe_rows(difference: DifferenceEntry) -> str:
    """Say why validation rows keep a difference from being called one."""
    assert difference.rows_interval is not None
    low, high = difference.rows_interval
    ends = f"({100 * low:+.1f} to {100 * high:+.1f})"
    if low <= 0 <= high:
        return f"but other rows could turn it around {ends}"
    return f"but of several settings one can seem better by the choice of rows {ends}"


# --- what else the reader must know -----------------------------------------------------------------------


def _describe_teacher(document: SweepDocument) -> Iterator[str]:
    teacher = document.teacher
    if teacher is None or document.best is None:
        return
    best = document.entry(document.best)
    sign = 1 if document.higher_is_better else -1
    lead = sign * (teacher.score - best.mean)
    size = _size(document, abs(lead))
    how = "better" if lead > 0 else "worse"
    yield (
        f"The teacher, {teacher.name}, has {document.metric} {teacher.score:.4f}: {how} by {size} than "
        f"{best.name} ({best.mean:.4f}), the best setting on validation."
    )


def _describe_steps(document: SweepDocument) -> Iterator[str]:
    """Say where settings took more or fewer steps than their labels-only reference."""
    if document.compared_with != "labels_only":
        return
    ratios = []
    for entry in document.settings:
        if entry.difference is None:
            continue
        reference = document.entry(entry.difference.reference)
        if reference.steps and abs(entry.steps / reference.steps - 1) > STEPS_TOLERANCE:
            ratios.append((entry.steps / reference.steps, entry, reference))
    if ratios:
        ratio, entry, reference = max(ratios, key=lambda item: max(item[0], 1 / max(item[0], 1e-9)))
        yield (
            f"Steps differ: {entry.name} trained for {ratio:.2g} times as many as labels alone "
            f"({entry.steps:,.0f} against {reference.steps:,.0f}), for instance on transfer text; a part of "
            "the difference may come from that."
        )


def _describe_gaps(document: SweepDocument) -> Iterator[str]:
    """Say what the statistics leave out, and which comparisons are not like for like."""
    unlike = [entry for entry in document.settings if entry.difference and entry.difference.differs_in]
    if document.searched and document.compared_with == "labels_only":
        tried = sum(entry.labels_only for entry in document.settings)
        yield (
            f"Every setting is compared with the best of {pluralize(tried, 'setting')} on labels alone, for "
            "which the same was searched."
        )
    elif unlike and document.compared_with == "labels_only":
        difference = unlike[0].difference
        assert difference is not None
        options = _join([name_option(option) for option in difference.differs_in])
        yield (
            f"{pluralize(len(unlike), 'setting')} {_has(len(unlike))} no run on labels alone that is equal "
            f"in all else: {unlike[0].name} is compared with {difference.reference}, which differs in "
            f"{options} too."
        )
    compared = [entry for entry in document.settings if not entry.pruned]
    counts = {len(entry.seeds) for entry in compared}
    if len(counts) > 1:
        yield (
            f"Settings have {min(counts)} to {max(counts)} seeds; a difference uses those that both "
            "settings have."
        )
    pruned = sum(entry.pruned for entry in document.settings)
    if pruned:
        yield (
            f"{pruned:,} of {pluralize(len(document.settings), 'setting')} {_was(pruned)} ended early "
            "and left out of the statistics."
        )
    if document.failures:
        first = document.failures[0]
        yield (
            f"{pluralize(len(document.failures), 'cell')} failed, the first with: "
            f"{' '.join(first.error.split())[:200]}"
        )
    if document.missing:
        yield f"{pluralize(document.missing, 'cell')} {_has(document.missing)} not run."


# --- figures and names as text ----------------------------------------------------------------------------


def reference_name(document: SweepDocument, difference: DifferenceEntry) -> str:
    """Return `labels alone`, with its other options where there are several such settings."""
    entry = document.entry(difference.reference)
    if not entry.labels_only or document.compared_with != "labels_only":
        return entry.name
    if sum(setting.labels_only for setting in document.settings) == 1:
        return LABELS_ALONE
    details = [
        f"{name_option(name)} {name_value(value)}" for name, value in entry.setting.items() if name != "alpha"
    ]
    return f"{LABELS_ALONE} ({', '.join(details)})" if details else LABELS_ALONE


def improvement(document: SweepDocument, entry: SettingEntry) -> float:
    """Return how much better than its reference a setting is."""
    assert entry.difference is not None
    return entry.difference.value if document.higher_is_better else -entry.difference.value


def list_settings(document: SweepDocument, entries: Sequence[SettingEntry]) -> str:
    """Return `alphas 0 to 0.5`, `alphas 0, 0.5 and 1`, or the names."""
    options = {name for entry in entries for name in entry.setting}
    varying = [
        name for name in options if len({name_value(entry.setting.get(name)) for entry in entries}) > 1
    ]
    fixed = [name for name in options if name not in varying]
    same = {(name, name_value(entries[0].setting.get(name))) for name in fixed}
    if len(varying) != 1 or any(varying[0] not in entry.setting for entry in entries):
        return _join([entry.name for entry in entries])
    option = varying[0]
    plural = name_option(option) if option.endswith("s") else f"{name_option(option)}s"
    values = [entry.setting[option] for entry in entries]
    suffix = "".join(
        f", {name_option(name)} {value}" for name, value in sorted(same) if name in document.swept
    )
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        values.sort()
        available = sorted(
            entry.setting[option]
            for entry in document.settings
            if option in entry.setting
            and not entry.pruned
            and {(name, name_value(entry.setting.get(name))) for name in fixed} == same
        )
        start = available.index(values[0])
        if len(values) > 2 and available[start : start + len(values)] == values:
            return f"{plural} {name_value(values[0])} to {name_value(values[-1])}{suffix}"
    return f"{plural} {_join([name_value(value) for value in values])}{suffix}"


def _join(parts: Sequence[str]) -> str:
    """Return `a, b and c`; of more than eight the first, and how many more there are."""
    if len(parts) > 8:
        return list_names(parts)
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _is_different(entry: SettingEntry) -> bool:
    return entry.difference is not None and entry.difference.different


def _any_different(entries: Sequence[SettingEntry]) -> bool:
    return any(_is_different(entry) for entry in entries)


def _size(document: SweepDocument, value: float) -> str:
    """Return a difference without its sign: points of a share, else the metric's own unit."""
    if not document.higher_is_better:
        return f"{abs(value):.4f}"
    digits = 1 if abs(value) >= 0.001 else 2
    return f"{100 * abs(value):.{digits}f} points"


def _amount(document: SweepDocument, entry: SettingEntry) -> str:
    """Return `2.1 points (1.4 to 2.8)`; both settings' order makes the figure positive."""
    difference = entry.difference
    assert difference is not None and difference.interval is not None
    low, high = sorted(end if difference.value > 0 else -end for end in difference.interval)
    ends = f"{100 * low:.1f} to {100 * high:.1f}" if document.higher_is_better else f"{low:.4f} to {high:.4f}"
    return f"{_size(document, difference.value)} ({ends})"


def _signed(document: SweepDocument, value: float) -> str:
    return f"{100 * value:+.1f} points" if document.higher_is_better else f"{value:+.4f}"


def _signed_ends(document: SweepDocument, difference: DifferenceEntry) -> str:
    return "" if difference.interval is None else f" ({_format_ends(document, difference.interval)})"


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def describe_outcome(document: SweepDocument, entry: SettingEntry) -> str:
    """Return a word or two for the table: better, worse, not told apart, reference …"""
    if entry.pruned:
        return "ended early"
    difference = entry.difference
    if difference is None:
        if entry.name == document.best:
            return "best mean"
        references = {
            setting.difference.reference for setting in document.settings if setting.difference is not None
        }
        return "reference" if entry.name in references else "not compared"
    outcome = "on these rows only" if difference.on_these_rows else "not told apart"
    if difference.different:
        outcome = "better" if improvement(document, entry) > 0 else "worse"
    return f"{outcome}, best mean" if entry.name == document.best else outcome


def format_score(ends: Ends | None) -> str:
    """Return the interval of a mean; empty where there is none."""
    return "" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def format_difference(document: SweepDocument, difference: DifferenceEntry | None) -> tuple[str, str]:
    """Return a difference and its interval, in points where the metric is a share."""
    if difference is None:
        return UNKNOWN, ""
    interval = _format_ends(document, difference.interval) if difference.interval else ""
    return _signed(document, difference.value), interval


def _format_ends(document: SweepDocument, ends: Ends) -> str:
    if document.higher_is_better:
        return f"{100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}"
    return f"{ends[0]:+.4f} to {ends[1]:+.4f}"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"
