"""What `predict` reads: texts, stdin or files, and the columns of them."""

from distilkit.config import PredictConfig
from distilkit.data.arguments import check_stdin, find_files
from distilkit.data.formats import split_name
from distilkit.data.row_inputs import Inputs, choose_columns
from distilkit.data.streams import TEXT, TextColumns
from distilkit.errors import UserError
from distilkit.runs.run import Run


def choose_inputs(config: PredictConfig, run: Run | None) -> Inputs:
    """Find files and columns: those that are named, else those that the run was trained on.

    Raises:
        UserError: where there is nothing to read, or texts where the model wants pairs.
    """
    files = find_files(config.inputs)
    if config.reads_stdin:
        check_stdin()
    columns = choose_columns(config.text_column, config.text_pair_column, run)
    pair = columns.pair
    lines = [file for file in files if split_name(file)[1] == ".txt"]
    if pair and (lines or not files):
        source = str(lines[0]) if lines else "a text"
        wish = config.model if run else "--text-pair-column"
        raise UserError(
            f"{source}: a line of text is no pair, which {wish} asks for. Give a file (.csv, .tsv, .jsonl, "
            f".parquet) with the columns {columns.candidates[0]!r} and {pair!r}."
        )
    if not files:
        columns = TextColumns((config.text_column or TEXT,))
    return Inputs(tuple(files), () if files or config.reads_stdin else config.inputs, columns)
