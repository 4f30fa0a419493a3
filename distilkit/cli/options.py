"""Config class -> Typer flags: one flag a field, plus `--config`, `--quiet` and `--json` on every command.

Flags win over the file, the file over the defaults. Values are checked by the config class alone, so a flag,
a YAML key and a Python argument get the same answer.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from distilkit.cli.output import Output
from distilkit.config import FitConfig
from distilkit.fields import T, field_infos, flag, make_config, read_values

PANELS = ("Data", "Augmentation", "Model", "BiLSTM", "Loss", "Training", "Gates", "Speed", "Cache", "Output")

CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="YAML file that sets any of these options; flags win.",
        rich_help_panel="Output",
    ),
]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel="Output")]
JSON = Annotated[
    bool,
    typer.Option("--json", help="Print the result as one JSON document on stdout.", rich_help_panel="Output"),
]


def with_options(config_type: type[T]) -> Callable[[Callable[[T, Output], None]], Any]:
    """Give a command `command(config, output)` a flag for each field of `config_type`."""

    def decorate(command: Callable[[T, Output], None]) -> Any:
        def callback(ctx: typer.Context, **flags: Any) -> None:
            file, quiet, as_json = flags.pop("config"), flags.pop("quiet"), flags.pop("json")
            given = {name: value for name, value in flags.items() if _was_typed(ctx, name)}
            values = {**(read_values(file) if file else {}), **given}
            config = make_config(config_type, values, source=str(file) if file else "")
            command(config, Output(quiet=quiet, as_json=as_json))

        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        parameters = [context, *_parameters(config_type)]
        for name, annotation, default in (
            ("config", CONFIG, None),
            ("quiet", QUIET, False),
            ("json", JSON, False),
        ):
            parameters.append(_keyword(name, annotation, default))
        callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        callback.__doc__ = command.__doc__ or config_type.__doc__
        callback.__name__ = command.__name__
        return callback

    return decorate


def _was_typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _parameters(config_type: type[Any]) -> list[inspect.Parameter]:
    """The fields, in the order of their panels, as Typer parameters that default to "not typed"."""
    arguments, options = [], []
    defaults = config_type.default_texts() if issubclass(config_type, FitConfig) else {}
    for name, field in field_infos(config_type).items():
        extra = field.json_schema_extra or {}
        annotation, metavar = _typed(field.annotation)
        required = field.is_required()
        if extra.get("positional"):
            metadata = typer.Argument(help=field.description, metavar=name.upper(), show_default=False)
            arguments.append(_keyword(name, Annotated[list[str] | None, metadata], None))
            continue
        help_text = field.description
        if name in defaults:
            help_text = help_text.format(**defaults)
        if required:
            help_text += " (required)"
        long = f"{flag(name)}/{flag('no_' + name)}" if annotation is bool else flag(name)
        names = [long, extra["short"]] if extra["short"] else [long]
        metadata = typer.Option(
            *names, help=help_text, metavar=metavar, rich_help_panel=extra["panel"], show_default=not required
        )
        default = None if required else field.default
        options.append((extra["panel"], _keyword(name, Annotated[annotation, metadata], default)))
    options.sort(key=lambda option: PANELS.index(option[0]))
    return arguments + [parameter for _, parameter in options]


def _typed(annotation: Any) -> tuple[Any, str | None]:
    """What Typer is told of a field's type. Numbers and choices stay texts: the config class checks them."""
    if get_origin(annotation) is tuple:
        return list[str], "<float>" if get_args(annotation)[0] is float else "<str>"
    for number in (int, float):
        if annotation in (number, number | None):
            return str | None, f"<{number.__name__}>"
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is Literal:
            return str | None, f"<{'|'.join(get_args(part))}>"
    return annotation, None
