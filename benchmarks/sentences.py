"""The sentences of a column of texts, a line each, shuffled: unlabelled text for `distill --transfer`.

python -m benchmarks.sentences data/imdb/unsupervised.parquet imdb-sentences.txt
"""

import argparse
import random
import re
from pathlib import Path

import pyarrow.parquet as pq

TAG = re.compile(r"<[^<>]{1,20}>")
END = re.compile(r"(?<=[.!?])[\"')]*\s+")
FEWEST, MOST = 3, 50  # words of a sentence


def sentences(text: str) -> list[str]:
    """Its sentences of 3 to 50 words, without tags and line ends."""
    parts = (" ".join(part.split()) for part in END.split(TAG.sub(" ", text)))
    return [part for part in parts if FEWEST <= len(part.split()) <= MOST]


def main() -> None:
    """Write every sentence once, whatever its case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="Parquet file with a column text")
    parser.add_argument("output", type=Path, help="text file to write")
    chosen = parser.parse_args()
    texts = pq.read_table(chosen.source, columns=["text"])["text"].to_pylist()
    found = {sentence.casefold(): sentence for text in texts for sentence in sentences(text)}
    lines = list(found.values())
    random.Random(0).shuffle(lines)
    chosen.output.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    print(f"{chosen.output}: {len(lines):,} sentences")


if __name__ == "__main__":
    main()
