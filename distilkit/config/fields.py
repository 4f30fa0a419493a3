"""Building blocks of config classes: fields that are CLI flags, YAML keys and Python arguments at once."""

import difflib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from distilkit.errors import MAX_NAMES, UserError, list_names

AnyConfig = TypeVar("AnyConfig", bound="Config")

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

    def __init__(self, **values: Any) -> None:
        _refuse_unknown(type(self), values)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(_describe_problems(error, type(self))) from None


def option(default: Any = ..., *, help: str, panel: str, short: str | None = None, **limits: Any) -> Any:
    """Declare a field with its help, its panel on the command line and perhaps a short flag."""
    return Field(default, description=help, json_schema_extra={"panel": panel, "short": short}, **limits)


def positional(default: Any = ..., *, help: str, **limits: Any) -> Any:
    """Declare a field that the command line takes as its arguments."""
    return Field(default, description=help, json_schema_extra={"positional": True}, **limits)


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
Strings = Annotated[
    tuple[Annotated[str, Field(min_length=1), BeforeValidator(_expand_home)], ...], BeforeValidator(_as_tuple)
]
Floats = Annotated[tuple[float, ...], BeforeValidator(_as_tuple)]


def field_infos(config_type: type[Config]) -> dict[str, Any]:
    """Return pydantic's description of each field of a config class, in order."""
    return dict(config_type.model_fields)


def replace_values(config: AnyConfig, **values: Any) -> AnyConfig:
    """Return `config` with these values instead, checked again."""
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
        return config_type(**{str(name): value for name, value in values.items()})
    except UserError as error:
        raise UserError(f"{source}: {error}" if source else str(error)) from None


def _refuse_unknown(config_type: type[Config], values: Mapping[str, Any]) -> None:
    names = list(field_infos(config_type))
    for name, value in values.items():
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"It takes {list_names(names)}: see --help."
            raise UserError(f"{clip(name)} is not an option of this command. {hint}")
        if isinstance(value, str) and not value.strip():
            raise UserError(f"{flag(name)} {clip(value)}: it is empty. Give a value or leave it out.")


def _describe_problems(error: ValidationError, config_type: type[Config]) -> str:
    lines = [_problem(detail, config_type) for detail in error.errors()]
    more = [f"and {len(lines) - MAX_NAMES} more problems"] if len(lines) > MAX_NAMES else []
    return "\n".join([*lines[:MAX_NAMES], *more])


def _problem(detail: Any, config_type: type[Config]) -> str:
    message: str = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    is_argument = (field_infos(config_type)[name].json_schema_extra or {}).get("positional")
    shown = name.upper() if is_argument else flag(name)
    if detail["type"] == "missing":
        return f"{shown} is missing: {field_infos(config_type)[name].description}"
    return f"{shown} {clip(detail['input'])}: {message[0].lower()}{message[1:][:500]}"


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
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{file} cannot be read: {reason}") from None
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
