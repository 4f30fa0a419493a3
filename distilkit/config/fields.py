"""Building blocks of config classes: fields that are CLI flags, YAML keys and Python arguments at once."""

import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from distilkit.errors import UserError

AnyConfig = TypeVar("AnyConfig", bound="Config")


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
            raise UserError("\n".join(_problem(detail, type(self)) for detail in error.errors())) from None


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


Strings = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple)]
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
            hint = f"Did you mean {close[0]!r}?" if close else f"It takes {', '.join(names)}."
            raise UserError(f"{name!r} is not an option of this command. {hint}")
        if isinstance(value, str) and not value.strip():
            raise UserError(f"{flag(name)} {value!r}: it is empty. Give a value or leave it out.")


def _problem(detail: Any, config_type: type[Config]) -> str:
    message: str = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    is_argument = (field_infos(config_type)[name].json_schema_extra or {}).get("positional")
    shown = name.upper() if is_argument else flag(name)
    if detail["type"] == "missing":
        return f"{shown} is missing: {field_infos(config_type)[name].description}"
    return f"{shown} {detail['input']!r}: {message[0].lower()}{message[1:]}"


def read_values(file: Path) -> dict[str, Any]:
    """Read the `key: value` pairs of a YAML file.

    Raises:
        UserError: when the file cannot be read, is not YAML, or holds something else.
    """
    import yaml  # imported here, because no help needs it

    try:
        text = file.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{file} must hold `key: value` pairs, but holds a {type(values).__name__}.")
    mapping: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    keys = [key.value for key, _ in mapping.value]
    if repeated := [key for key in keys if keys.count(key) > 1]:  # YAML would silently keep the last
        raise UserError(f"{file} sets {repeated[0]!r} twice. Keep one of them.")
    return values


def dump_values(config: Config) -> str:
    """Return `config` as YAML that `read_values` and `make_config` turn back into an equal config."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
