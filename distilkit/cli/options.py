"""Config class -> Typer flags: one flag a field, plus `--config`, `--quiet` and `--json` on every command.

Flags win over the file, the file over the defaults. Values are checked by the config class alone, so a flag,
a YAML key and a Python argument get the same answer.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from distilkit import config
from distilkit.cli.output import Output
from distilkit.config.fields import choices_of, field_infos, flag, make_config, read_values
from distilkit.errors import UserError

Command = Callable[[Any, Output], None]

BASIC = "Basic options"
PANELS = (
    "Data",
    "Augmentation",
    "Model",
    "BiLSTM and static",
    "Loss",
    "Training",
    "Sweep",
    "Gates",
    "Fallback",
    "Server",
    "Limits",
    "Speed",
    "Cache",
    "Output",
)

# What people type who know other tools, and what it is called here.
SYNONYMS = {
    "--lr": "--learning-rate",
    "--bs": "--batch-size",
    "--num-train-epochs": "--epochs",
    "--num-epochs": "--epochs",
    "--per-device-train-batch-size": "--batch-size",
    "--max-seq-length": "--max-length",
    "--max-grad": "--max-grad-norm",
    "--model-name-or-path": "--model",
    "--teacher-model": "--teacher",
    "--student-model": "--student",
    "--dataset-name": "--dataset",
    "--task-name": "--dataset",
    "--data": "--data-dir",
    "--train-file": "--data-dir",
    "--out": "--output-dir",
    "--output": "--output-dir",
    "--early-stopping-patience": "--patience",
    "--metric-for-best-model": "--metric",
}


class PlainHelpGroup(TyperGroup):
    """A group whose help shows no type for flags that take no value."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters as help shows them."""
        return _without_types(super().get_params(ctx))


class PlainHelpCommand(TyperCommand):
    """A command whose help shows only types that say something, and whose errors know other tools' flags."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters as help shows them."""
        return _without_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; what fits no option or argument is explained by an option that exists."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # Typer keeps its copy of Click's `NoSuchOption` to itself.
            if hasattr(error, "possibilities"):
                name = str(getattr(error, "option_name", "")).replace("_", "-")
                options = {text for parameter in self.get_params(ctx) for text in parameter.opts}
                if (meant := SYNONYMS.get(name, name)) in options:
                    error.possibilities = [meant]
            takes_data = any("--data-dir" in parameter.opts for parameter in self.get_params(ctx))
            if takes_data and "unexpected extra argument" in getattr(error, "message", ""):
                error.message += ". Data goes to --data-dir PATH."  # type: ignore[attr-defined]
            raise


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_flag:
            parameter.metavar = ""
        elif isinstance(parameter, TyperArgument):  # whose metavar would replace its name
            vars(parameter)["display_type_rich"] = lambda ctx: ""
    return parameters


class LateCommand(TyperCommand):
    """A command that knows its name and its help; its options are made when it is asked for.

    Each class of options takes some milliseconds, and one command is run at a time.
    """

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Make the context of the whole command, which replaces this one from here on.

        `distilkit sweep report` is a command of its own: its first argument names it.
        """
        callback: Any = self.callback
        name, words, *rest = arguments
        if words and words[0] in callback.subcommands:
            callback, name, words = callback.subcommands[words[0]], f"{name} {words[0]}", words[1:]
        alone = typer.Typer(add_completion=False)
        alone.command(cls=PlainHelpCommand)(callback.whole())
        return typer.main.get_command(alone).make_context(name, words, *rest, **options)


def command(
    app: typer.Typer,
    config_name: str,
    name: str | None = None,
    *,
    examples: Sequence[str],
    below: str | None = None,
) -> Callable[[Command], Command]:
    """Add a command to `app`: a function of a config, of the class of that name, and an `Output`.

    It gets a flag for each field of the class.

    Args:
        examples: command lines for its help; the first also explains a command without options.
        below: a command of `app` that has options of its own, of which this one is a part.
    """

    def decorate(run: Command) -> Command:
        def late() -> None:
            """Never called: `whole` makes what is."""

        parts: Any = late
        parts.__doc__, parts.__name__, parts.subcommands = run.__doc__, run.__name__, {}
        parts.whole = partial(_with_options, run, config_name, examples)
        if below is None:
            app.command(name, cls=LateCommand)(late)
        else:
            above: Any = next(
                info.callback
                for info in app.registered_commands
                if info.callback and info.callback.__name__ == below
            )
            above.subcommands[name] = late
        return run

    return decorate


def _with_options(run: Command, config_name: str, examples: Sequence[str]) -> Callable[..., None]:
    config_type: type[Any] = getattr(config, config_name)

    def callback(ctx: typer.Context, **flags: Any) -> None:
        file, quiet, as_json = flags.pop("config"), flags.pop("quiet"), flags.pop("json")
        typed = {name: value for name, value in flags.items() if _was_typed(ctx, name)}
        values = {**(read_values(file) if file else {}), **typed}
        try:
            made = make_config(config_type, values, source=str(file) if file else "")
        except UserError:
            if values:
                raise
            command_path = ctx.command_path
            raise UserError(
                f"{command_path} needs options. For example:\n    {examples[0]}\n"
                f"All of them: {command_path} --help"
            ) from None
        from distilkit.cli.paths import check_paths  # no help needs it

        check_paths(made)
        if "device" in config_type.model_fields:  # while torch is loaded
            from distilkit.hardware.neighbours import watch_other_processes

            watch_other_processes()
        run(made, Output(quiet=quiet, as_json=as_json))

    panel = "Advanced: Output" if _basic_names(config_type) else "Output"
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [context, *_parameters(config_type)]
    parameters += _common_parameters(panel)
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    shown = "\n".join(f"  {example}" for example in examples)
    callback.__doc__, callback.__name__ = f"{inspect.getdoc(run)}\n\nExamples:\n{shown}", run.__name__
    return callback


def _common_parameters(panel: str) -> list[inspect.Parameter]:
    """Return the options of every command."""
    config_file = typer.Option(
        "--config",
        "-c",
        metavar="PATH",
        help="YAML file that sets any of these options; flags win.",
        rich_help_panel=panel,
    )
    quiet = typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=panel)
    as_json = typer.Option(
        "--json", help="Print the result as one JSON document on stdout.", rich_help_panel=panel
    )
    return [
        _keyword("config", Annotated[Path | None, config_file], None),
        _keyword("quiet", Annotated[bool, quiet], False),
        _keyword("json", Annotated[bool, as_json], False),
    ]


def _basic_names(config_type: type[Any]) -> list[str]:
    """Return the fields that help lists first; none where a command has few options."""
    infos = field_infos(config_type).items()
    return [name for name, info in infos if (info.json_schema_extra or {}).get("basic")]


def _was_typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _parameters(config_type: type[Any]) -> list[inspect.Parameter]:
    """Return the fields, in the order of their panels, as Typer parameters that default to "not typed"."""
    arguments, options = [], []
    basic_names = _basic_names(config_type)
    defaults = config_type.default_texts() if hasattr(config_type, "default_texts") else {}
    for name, field in field_infos(config_type).items():
        extra = field.json_schema_extra or {}
        if extra.get("yaml_only"):
            continue
        annotation, metavar = _typed(field.annotation)
        element = extra.get("element", field.annotation)  # of an option that takes several values
        if "element" in extra:
            metavar = f"{_typed(element)[1]},.."
        required = field.is_required()
        if extra.get("positional"):
            metadata = typer.Argument(help=field.description, metavar=name.upper(), show_default=False)
            arguments.append(_keyword(name, Annotated[annotation | None, metadata], None))
            continue
        help_text = _help_text(field, choices_of(element))
        if name in defaults:
            help_text = help_text.format(**defaults)
        if required:
            help_text += " (required)"
        long = f"{flag(name)}/{flag('no_' + name)}" if annotation is bool else flag(name)
        names = [long, extra["short"]] if extra["short"] else [long]
        is_basic, panel = name in basic_names, extra["panel"]
        metadata = typer.Option(
            *names,
            help=help_text,
            metavar=metavar,
            rich_help_panel=BASIC if is_basic else f"Advanced: {panel}" if basic_names else panel,
            show_default=not required,
            autocompletion=_completion(choices_of(element) or extra["suggestions"]),
        )
        default = None if required else field.default
        rank = (not is_basic, PANELS.index(panel))
        options.append((rank, _keyword(name, Annotated[annotation, metadata], default)))
    options.sort(key=lambda option: option[0])
    return arguments + [parameter for _, parameter in options]


def _help_text(field: Any, choices: Sequence[str]) -> str:
    """Return the help of a field, with its choices where the help does not explain each."""
    help_text = str(field.description)
    if all(re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", help_text) for choice in choices):
        return help_text
    return f"{', '.join(choices[:-1])} or {choices[-1]}. {help_text}"


def _completion(values: Sequence[str]) -> Callable[[str], list[str]] | None:
    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete if values else None


def _typed(annotation: Any) -> tuple[Any, str]:
    """Return the type for Typer and its name. Numbers and choices stay texts: the config class checks them.

    The names are short: a long one leaves no room for the option in a narrow terminal.
    """
    annotation = _strip_validators(annotation)
    if get_origin(annotation) is tuple:
        return list[str], "X" if get_args(annotation)[0] is float else "TEXT"
    for number_type, name in ((int, "N"), (float, "X")):
        if annotation in (number_type, number_type | None):
            return str | None, name
    if choices_of(annotation):
        return str | None, "NAME"
    return annotation, "PATH" if Path in (annotation, *get_args(annotation)) else "TEXT"


def _strip_validators(annotation: Any) -> object:
    """Return `X | None` for `Annotated[X, ...] | None`: pydantic strips only what is outermost."""
    if get_origin(annotation) is UnionType or get_origin(annotation) is Union:
        return reduce(or_, (_strip_validators(part) for part in get_args(annotation)))
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
