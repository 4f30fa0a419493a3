"""Options of `report`."""

from pathlib import Path

from distilkit.config.fields import AnyPath, Config, Strings, option, positional


class ReportConfig(Config):
    """Plot the training curves of one or more runs: losses and metrics of every epoch."""

    runs: Strings = positional(help="Run folders.", min_length=1)
    output_dir: AnyPath = option(
        Path("report"),
        panel="Output",
        short="-o",
        help="Folder for a page that opens anywhere, and the pictures.",
    )
