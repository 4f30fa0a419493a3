"""What config classes are made of: fields that are CLI flags, YAML keys and Python arguments at once."""

import difflib
import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass, rebuild_dataclass

from distilkit.errors import UserError

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def frozen(cls: type[T]) -> type[T]:
    """A frozen pydantic dataclass whose mistakes are `UserError`s that name the flag and the value."""
    rules = ConfigDict(extra="forbid", allow_inf_nan=False, defer_build=True)  # `--help` checks nothing
    made: Any = dataclass(frozen=True, kw_only=True, config=rules)(cls)
    check = made.__init__

    def __init__(self: Any, **values: Any) -> None:
        _refuse_unknown(made, values)
        try:
            check(self, **values)
        except ValidationError as error:
            raise UserError("\n".join(_problem(detail, made) for detail in error.errors())) from None

    def __new__(cls: type[Any], *_: Any, **__: Any) -> Any:
        _build(made, __init__)  # before Python looks for `__init__`, which is another's while it is built
        return object.__new__(cls)

    made.__init__, made.__new__ = __init__, __new__
    made.__signature__ = _Signature(__init__)
    checked: type[T] = made
    return checked


_BUILDING = threading.RLock()


def _build(config_type: Any, check: Callable[..., None]) -> None:
    """Make the validator of a class, once, and put `check` back, which pydantic then replaces."""
    if config_type.__pydantic_complete__ and config_type.__init__ is check:
        return
    with _BUILDING:
        if not config_type.__pydantic_complete__:
            rebuild_dataclass(config_type)
            config_type.__init__ = check


class _Signature:
    """A class's signature, for `help` and notebooks: it is known when the class is built."""

    def __init__(self, check: Callable[..., None]) -> None:
        self._check = check

    def __get__(self, _: Any, config_type: Any) -> inspect.Signature:
        _build(config_type, self._check)
        built: inspect.Signature = config_type.__signature__
        return built


def option(default: Any = ..., *, help: str, panel: str, short: str | None = None, **limits: Any) -> Any:
    """A field with what the command line needs to know of it: help, panel and perhaps a short form."""
    return Field(default, description=help, json_schema_extra={"panel": panel, "short": short}, **limits)


def positional(default: Any = ..., *, help: str, **limits: Any) -> Any:
    """A field that the command line takes as its arguments."""
    return Field(default, description=help, json_schema_extra={"positional": True}, **limits)


def _one_or_many(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | int | float) else value


Strings = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_one_or_many)]
Floats = Annotated[tuple[float, ...], BeforeValidator(_one_or_many)]


def field_infos(config_type: type[Any]) -> dict[str, Any]:
    """Pydantic's description of each field of a config class, in order."""
    infos: dict[str, Any] = config_type.__pydantic_fields__
    return infos


def changed(config: T, **values: Any) -> T:
    """`config` with other `values`, checked anew."""
    made: T = replace(config, **values)  # type: ignore[type-var]  # every config class is a dataclass
    return made


def flag(name: str) -> str:
    """The command-line name of a field: `batch_size` is `--batch-size`."""
    return "--" + name.replace("_", "-")


def make_config(config_type: type[T], values: Mapping[str, Any], source: str = "") -> T:
    """A `config_type` of `values`. Raises `UserError` as the class does, with `source` before its message."""
    try:
        return config_type(**{str(name): value for name, value in values.items()})
    except UserError as error:
        raise UserError(f"{source}: {error}" if source else str(error)) from None


def _refuse_unknown(config_type: type[Any], values: Mapping[str, Any]) -> None:
    known = list(field_infos(config_type))
    for name, value in values.items():
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"It takes {', '.join(known)}."
            raise UserError(f"{name!r} is not an option of this command. {hint}")
        if isinstance(value, str) and not value.strip():
            raise UserError(f"{flag(name)} {value!r}: it is empty. Give a value or leave it out.")


def _problem(detail: Any, config_type: type[Any]) -> str:
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
    """The `key: value` pairs of a YAML file.

    Raises:
        UserError: when the file cannot be read, is not YAML, or holds something else.
    """
    import yaml  # here: no help waits for it

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
    if twice := [key for key in keys if keys.count(key) > 1]:  # YAML would silently keep the last
        raise UserError(f"{file} sets {twice[0]!r} twice. Keep one of them.")
    return values


def dump_values(config: Any) -> str:
    """`config` as YAML that `read_values` and `make_config` turn back into an equal config."""
    import yaml

    values = TypeAdapter(type(config)).dump_python(config, mode="json")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
