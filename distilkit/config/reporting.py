"""What `report` is told."""

from pathlib import Path

from distilkit.config.fields import Config, FilePath, Strings, option, positional


class ReportConfig(Config):
    """Draw how runs were trained: losses and metrics of every epoch, several runs in one picture."""

    runs: Strings = positional(help="Run folders.", min_length=1)
    output_dir: FilePath = option(
        Path("report"),
        panel="Output",
        short="-o",
        help="Folder for a page that opens anywhere, and the pictures.",
    )
