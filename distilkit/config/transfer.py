"""Options on text beyond the training split: unlabelled text for the teacher to label, and raw text."""

from pydantic import model_validator

from distilkit.config.fields import Config, Strings, option


class TransferConfig(Config):
    """Text beyond the training split."""

    transfer: Strings = option(
        (),
        panel="Data",
        help="Text without labels for the teacher to label, repeatable: .txt (a row a line), .parquet, .csv, "
        ".tsv, .jsonl, a folder or 'pattern*' of such files, or `unsupervised`, that split of the dataset.",
    )
    transfer_ratio: float | None = option(
        None,
        gt=0,
        panel="Data",
        help="Rows of --transfer per training row in an epoch, others each time. (default: all of them)",
    )
    corpus: Strings = option(
        (),
        panel="Data",
        help="general: raw text to match layers on, repeatable: .txt (a paragraph a line) or `wikitext-103`.",
    )

    @model_validator(mode="after")
    def _check_transfer(self) -> "TransferConfig":
        if repeated := [name for name in self.transfer if self.transfer.count(name) > 1]:
            raise ValueError(f"--transfer {repeated[0]} is given twice: leave one out")
        if repeated := [name for name in self.corpus if self.corpus.count(name) > 1]:
            raise ValueError(f"--corpus {repeated[0]} is given twice: leave one out")
        return self
