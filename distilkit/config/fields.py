"""Building blocks of config classes: fields that are CLI flags, YAML keys and Python arguments at once."""

import difflib
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from distilkit.errors import MAX_NAMES, UserError, list_names

AnyConfig = TypeVar("AnyConfig", bound="Config")
# Whether an error names options as they are typed (`--batch-size`) or as Python arguments (`batch_size`).
_NAMES_FLAGS: ContextVar[bool] = ContextVar("names_flags", default=False)

MAX_YAML_BYTES = 100_000  # a command has some fifty options
MAX_SHOWN = 200  # characters of a value in a message
_YAML_KINDS = {"ScalarNode": "single value", "SequenceNode": "list"}


class _Signature:
    """Show the fields of a class to `help()` before pydantic has built it, which then replaces this."""

    def __get__(self, _: object, config_type: "type[Config]") -> inspect.Signature:
        empty, kind = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature(
            [
                inspect.Parameter(name, kind, default=empty if info.is_required() else info.default)
                for name, info in field_infos(config_type).items()
            ]
        )


class Config(BaseModel):
    """Options of a command: frozen, and its mistakes are `UserError`s that name the flag and the value.

    Validators are built when a class is first used, because `--help` checks nothing.
    """

    __signature__ = _Signature()
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Add to the docstring what each option is, for `help()`."""
        super().__pydantic_init_subclass__(**options)
        cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\nArgs:\n{_describe_fields(cls)}"

    def __init__(self, **values: Any) -> None:
        _refuse_unknown(type(self), values)
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = _describe_problems(error, type(self))
            raise UserError(
                problems if _NAMES_FLAGS.get() else name_arguments(problems, type(self))
            ) from None


def option(
    default: Any = ...,
    *,
    help: str,
    panel: str,
    short: str | None = None,
    basic: bool = False,
    suggestions: Sequence[str] = (),
    yaml_only: bool = False,
    **limits: Any,
) -> Any:
    """Declare a field with its help, its panel on the command line and perhaps a short flag.

    Args:
        basic: whether help lists it among the options that most people use.
        suggestions: values that the shell completes where others are possible too.
        yaml_only: whether it has no flag, because no flag could hold its value.
    """
    extra: dict[str, Any] = {"panel": panel, "short": short, "basic": basic}
    extra |= {"suggestions": list(suggestions), "yaml_only": yaml_only}
    return Field(default, description=help, json_schema_extra=extra, **limits)


def positional(default: Any = ..., *, help: str, **limits: Any) -> Any:
    """Declare a field that the command line takes as its arguments."""
    return Field(default, description=help, json_schema_extra={"positional": True}, **limits)


def choices_of(annotation: Any) -> tuple[str, ...]:
    """Return the values of a field that takes one of a few texts, else none."""
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is Literal:
            return get_args(part)
    return ()


def closest(value: str, names: Sequence[str]) -> str | None:
    """Return the name that `value` most likely means: of the same letters, else beginnings, else spelling."""
    letters = {name: re.sub(r"[\W_]", "", name.lower()) for name in (value, *names)}
    same = [name for name in names if letters[name] == letters[value]]
    longer = [name for name in names if len(letters[value]) > 1 and letters[name].startswith(letters[value])]
    candidates = same or longer or difflib.get_close_matches(value.lower(), names, n=1)
    return candidates[0] if candidates else None


def _as_tuple(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | int | float) else value


def _expand_home(value: Any) -> Any:
    """Return a path with `~` expanded, and anything else as it is; refuse what no file can be called."""
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if "\0" in text:
        raise ValueError("a name cannot hold a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it is not UTF-8. Rename the file, or check the shell's encoding")
    return type(value)(os.path.expanduser(text)) if text.startswith("~") else value


FilePath = Annotated[Path, BeforeValidator(_expand_home)]
ModelName = Annotated[str, BeforeValidator(_expand_home)]  # a folder, or a name on the Hub

if TYPE_CHECKING:
    # A type checker takes the type of an argument from `__set__` and that of an attribute from `__get__`
    # (PEP 681): pydantic turns texts into paths, and one text into a tuple of it.
    class AnyPath:
        """A path, given as one or as text."""

        def __get__(self, config: object, owner: object) -> Path: ...
        def __set__(self, config: object, value: Path | str) -> None: ...

    class OptionalPath:
        """A path, given as one or as text, or none."""

        def __get__(self, config: object, owner: object) -> Path | None: ...
        def __set__(self, config: object, value: Path | str | None) -> None: ...

    class Strings:
        """Several texts, or one of them alone."""

        def __get__(self, config: object, owner: object) -> tuple[str, ...]: ...
        def __set__(self, config: object, value: str | Sequence[str] | None) -> None: ...

    class Floats:
        """Several numbers, or one of them alone."""

        def __get__(self, config: object, owner: object) -> tuple[float, ...]: ...
        def __set__(self, config: object, value: float | Sequence[float] | None) -> None: ...
else:
    AnyPath, OptionalPath = FilePath, FilePath | None
    Strings = Annotated[
        tuple[Annotated[str, Field(min_length=1), BeforeValidator(_expand_home)], ...],
        BeforeValidator(_as_tuple),
    ]
    Floats = Annotated[tuple[float, ...], BeforeValidator(_as_tuple)]


def field_infos(config_type: type[Config]) -> dict[str, Any]:
    """Return pydantic's description of each field of a config class, in order."""
    return dict(config_type.model_fields)


def name_arguments(text: str, config_type: type[Config]) -> str:
    """Return `text` with Python arguments in place of flags: `batch_size` for `--batch-size`."""
    names = field_infos(config_type)

    def replace(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        return name if name in names else match[0]

    return re.sub(r"--([a-z][a-z-]*[a-z])", replace, text)


def _describe_fields(config_type: type[Config]) -> str:
    default_texts = config_type.default_texts() if hasattr(config_type, "default_texts") else {}
    lines = []
    for name, info in field_infos(config_type).items():
        description = str(info.description)
        if name in default_texts:
            description = description.format(**default_texts)
        lines.append(f"    {name}: {name_arguments(description, config_type)}")
    return "\n".join(lines)


def replace_values(config: AnyConfig, **values: Any) -> AnyConfig:
    """Return `config` with these values instead, checked again."""
    with _naming_flags():
        return type(config)(**(dict(config) | values))


def flag(name: str) -> str:
    """Return the command-line name of a field: `batch_size` is `--batch-size`."""
    return "--" + name.replace("_", "-")


def make_config(config_type: type[AnyConfig], values: Mapping[str, Any], source: str = "") -> AnyConfig:
    """Make a `config_type` of `values`.

    Raises:
        UserError: as the class does, with `source` before its message.
    """
    try:
        with _naming_flags():
            return config_type(**{str(name): value for name, value in values.items()})
    except UserError as error:
        raise UserError(f"{source}: {error}" if source else str(error)) from None


@contextmanager
def _naming_flags() -> Iterator[None]:
    token = _NAMES_FLAGS.set(True)
    try:
        yield
    finally:
        _NAMES_FLAGS.reset(token)


def _shown_name(config_type: type[Config], name: str) -> str:
    if not _NAMES_FLAGS.get():
        return name
    is_argument = (field_infos(config_type)[name].json_schema_extra or {}).get("positional")
    return name.upper() if is_argument else flag(name)


def _refuse_unknown(config_type: type[Config], values: Mapping[str, Any]) -> None:
    names = list(field_infos(config_type))
    for name, value in values.items():
        if name not in names:
            close = closest(str(name)[:MAX_SHOWN], names)
            hint = f"Did you mean {close!r}?" if close else f"It takes {list_names(names)}."
            hint += " See --help." if _NAMES_FLAGS.get() and not close else ""
            who = "this command" if _NAMES_FLAGS.get() else config_type.__name__
            raise UserError(f"{clip(name)} is not an option of {who}. {hint}")
        if isinstance(value, str) and not value.strip():
            shown = _shown_name(config_type, name)
            raise UserError(f"{shown} {clip(value)}: it is empty. Give a value or leave it out.")
        if isinstance(value, bool) and _is_number(field_infos(config_type)[name].annotation):
            raise UserError(f"{_shown_name(config_type, name)} {value}: it must be a number. Give one.")


def _is_number(annotation: Any) -> bool:
    """Return whether a field takes one number, and no truth value, which pydantic would read as 0 or 1."""
    types = {annotation, *get_args(annotation)}
    return bool(types & {int, float}) and bool not in types


def _describe_problems(error: ValidationError, config_type: type[Config]) -> str:
    lines = [_problem(detail, config_type) for detail in error.errors()]
    more = [f"and {len(lines) - MAX_NAMES} more problems"] if len(lines) > MAX_NAMES else []
    return "\n".join([*lines[:MAX_NAMES], *more])


def _problem(detail: Any, config_type: type[Config]) -> str:
    message: str = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    shown, info = _shown_name(config_type, name), field_infos(config_type)[name]
    if detail["type"] == "missing":
        return f"{shown} is missing: {info.description}"
    close = closest(str(detail["input"])[:MAX_SHOWN], choices_of(info.annotation))
    suggestion = f". Did you mean {close}?" if close else ""
    return f"{shown} {clip(detail['input'])}: {message[0].lower()}{message[1:][:500]}{suggestion}"


def read_values(file: Path) -> dict[str, Any]:
    """Read the `key: value` pairs of a YAML file.

    Raises:
        UserError: when the file cannot be read, is too large, is not YAML, or holds something else.
    """
    return parse_values(_read_text(file), str(file))


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_YAML_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{error}. Save it as UTF-8"
        raise UserError(f"{file} cannot be read: {reason}.") from None
    if len(data) > MAX_YAML_BYTES:
        raise UserError(f"{file} has more than {MAX_YAML_BYTES:,} bytes, so it is no file of options.")
    return text


def parse_values(text: str, source: str) -> dict[str, Any]:
    """Parse the `key: value` pairs of a YAML text.

    Args:
        source: what a message calls the text.

    Raises:
        UserError: when it is not YAML, refers to itself, or holds something else.
    """
    import yaml  # imported here, because no help needs it

    from distilkit.config.yaml_loader import OptionsLoader

    try:
        loader = OptionsLoader(text)
        root = loader.get_single_node()
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise UserError(
                f"{source} must hold `key: value` pairs, but holds a {_YAML_KINDS[type(root).__name__]}."
            )
        keys = [key.value for key, _ in root.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:  # YAML would silently keep the last
            raise UserError(f"{source} sets {clip(repeated[0])} twice. Keep one of them.")
        values: dict[str, Any] = loader.construct_document(root)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())[:300]}") from None
    except RecursionError:
        raise UserError(f"{source} is nested too deeply. Write `key: value` pairs.") from None
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        # PyYAML lets the errors of Python's own constructors through, such as that of 2024-02-30.
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{source} holds a value that is not valid: {reason}") from None
    return values


def clip(value: object) -> str:
    """Return `value` as a message shows it: in quotes, and no longer than a line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list in lists
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def dump_values(config: Config) -> str:
    """Return `config` as YAML that `read_values` and `make_config` turn back into an equal config."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
