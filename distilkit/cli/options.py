"""Config class -> Typer flags: one flag a field, plus `--config`, `--quiet` and `--json` on every command.

Flags win over the file, the file over the defaults. Values are checked by the config class alone, so a flag,
a YAML key and a Python argument get the same answer.
"""

import inspect
from collections.abc import Callable
from functools import partial, reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

from distilkit import config
from distilkit.cli.output import Output
from distilkit.config.fields import field_infos, flag, make_config, read_values

Command = Callable[[Any, Output], None]

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


class LateCommand(TyperCommand):
    """A command that knows its name and its help; its options are made when it is asked for.

    Each class of options takes some milliseconds, and one command is run at a time.
    """

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Make the context of the whole command, which replaces this one from here on."""
        alone = typer.Typer(add_completion=False)
        alone.command()(self.callback.whole())  # type: ignore[union-attr]  # set by `command`
        return typer.main.get_command(alone).make_context(*arguments, **options)


def command(app: typer.Typer, config_name: str, name: str | None = None) -> Callable[[Command], Command]:
    """Add a command to `app`: a function of a config, of the class of that name, and an `Output`.

    It gets a flag for each field of the class.
    """

    def decorate(run: Command) -> Command:
        def late() -> None:
            """Never called: `whole` makes what is."""

        late.__doc__, late.__name__ = run.__doc__, run.__name__
        late.whole = partial(_with_options, run, config_name)  # type: ignore[attr-defined]
        app.command(name, cls=LateCommand)(late)
        return run

    return decorate


def _with_options(run: Command, config_name: str) -> Callable[..., None]:
    config_type: type[Any] = getattr(config, config_name)

    def callback(ctx: typer.Context, **flags: Any) -> None:
        file, quiet, as_json = flags.pop("config"), flags.pop("quiet"), flags.pop("json")
        typed = {name: value for name, value in flags.items() if _was_typed(ctx, name)}
        values = {**(read_values(file) if file else {}), **typed}
        made = make_config(config_type, values, source=str(file) if file else "")
        run(made, Output(quiet=quiet, as_json=as_json))

    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [context, *_parameters(config_type)]
    for name, annotation, default in (
        ("config", CONFIG, None),
        ("quiet", QUIET, False),
        ("json", JSON, False),
    ):
        parameters.append(_keyword(name, annotation, default))
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    callback.__doc__, callback.__name__ = run.__doc__, run.__name__
    return callback


def _was_typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _parameters(config_type: type[Any]) -> list[inspect.Parameter]:
    """Return the fields, in the order of their panels, as Typer parameters that default to "not typed"."""
    arguments, options = [], []
    defaults = config_type.default_texts() if hasattr(config_type, "default_texts") else {}
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
    """Return the type for Typer. Numbers and choices stay texts: the config class checks them."""
    annotation = _strip_validators(annotation)
    if get_origin(annotation) is tuple:
        return list[str], "<float>" if get_args(annotation)[0] is float else "<str>"
    for number_type in (int, float):
        if annotation in (number_type, number_type | None):
            return str | None, f"<{number_type.__name__}>"
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is Literal:
            return str | None, f"<{'|'.join(get_args(part))}>"
    return annotation, None


def _strip_validators(annotation: Any) -> Any:
    """Return `X | None` for `Annotated[X, ...] | None`: pydantic strips only what is outermost."""
    if get_origin(annotation) is UnionType or get_origin(annotation) is Union:
        return reduce(or_, (_strip_validators(part) for part in get_args(annotation)))
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
