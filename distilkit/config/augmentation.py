"""Options of `augment`."""

from typing import Any, Literal

from pydantic import model_validator

from distilkit.config.data import DEVICE_HELP, Device, Precision, TextsConfig
from distilkit.config.fields import AnyPath, ModelName, flag, option

Candidates = Literal["mlm", "embeddings", "both"]
Rule = Literal["tang", "tinybert"]

P_MASK, P_POS = 0.1, 0.1


class AugmentConfig(TextsConfig):
    """Generate augmented texts from the training split: one Parquet file, unlabelled."""

    output: AnyPath = option(
        panel="Output", short="-o", basic=True, help="Parquet file that receives the new texts."
    )
    overwrite: bool = option(
        False, panel="Output", help="Replace --output if it is there, once the new file is complete."
    )
    max_train_samples: int | None = option(
        None,
        ge=1,
        panel="Data",
        help="Generate from a stratified sample of N rows, the same for every seed.",
    )
    rule: Rule = option(
        "tang",
        panel="Augmentation",
        short="-r",
        basic=True,
        help="tang: masks, words of the same part of speech, n-grams. tinybert: words that a model proposes.",
    )
    variants: int | None = option(
        None,
        ge=1,
        panel="Augmentation",
        short="-n",
        basic=True,
        help="New texts tried per row; repeats are dropped. (default: 20; tang for pairs 10)",
    )
    p_mask: float | None = option(
        None, ge=0, le=1, panel="Augmentation", help="tang: probability of a masked word. (default: 0.1)"
    )
    p_pos: float | None = option(
        None,
        ge=0,
        le=1,
        panel="Augmentation",
        help="tang: probability of a word of the same part of speech instead. (default: 0.1)",
    )
    p_ngram: float | None = option(
        None,
        ge=0,
        le=1,
        panel="Augmentation",
        help="tang: probability that only an n-gram is kept. (default: 0.25)",
    )
    max_ngram: int | None = option(
        None, ge=1, panel="Augmentation", help="tang: longest n-gram, in words. (default: 5)"
    )
    mask_token: str | None = option(
        None, panel="Augmentation", help="tang: what stands for a masked word. (default: [MASK])"
    )
    p_replace: float | None = option(
        None, gt=0, le=1, panel="Augmentation", help="tinybert: probability of a new word. (default: 0.4)"
    )
    top_k: int | None = option(
        None, ge=1, panel="Augmentation", help="tinybert: candidates per word. (default: 15)"
    )
    candidates: Candidates | None = option(
        None,
        panel="Augmentation",
        help="tinybert: mlm: for words of one piece, a masked language model's. embeddings: for all words, "
        "their nearest neighbours. both: those for the words in several pieces. (default: both)",
    )
    mlm: ModelName | None = option(
        None,
        panel="Augmentation",
        help="tinybert: Hub id or folder of the masked language model. "
        "(default: google-bert/bert-base-uncased)",
    )
    embeddings: ModelName | None = option(
        None,
        panel="Augmentation",
        help="tinybert: text file of word vectors (GloVe, word2vec), or a model for its word-piece table. "
        "(default: the --mlm model's)",
    )
    precision: Precision | None = option(
        None, panel="Augmentation", help="tinybert: compute precision, as in train. (default: auto)"
    )
    device: Device = option(None, panel="Augmentation", help=f"tinybert: {DEVICE_HELP}")
    seed: int = option(42, ge=0, lt=2**32, panel="Augmentation", short="-s", help="Random seed.")

    @model_validator(mode="after")
    def _fits_together(self) -> "AugmentConfig":
        if self.output.suffix != ".parquet":
            raise ValueError(f"--output {self.output}: name a file that ends in .parquet")
        for rule, names in RULE_OPTIONS.items():
            misplaced = [name for name in names if getattr(self, name) is not None]
            if rule != self.rule and misplaced:
                raise ValueError(f"{flag(misplaced[0])} is for --rule {rule}, not {self.rule}: leave it out")
        if self.mask_token is not None and len(self.mask_token.split()) != 1:
            raise ValueError(f"--mask-token {self.mask_token!r}: it must be one word")
        p_mask = P_MASK if self.p_mask is None else self.p_mask
        p_pos = P_POS if self.p_pos is None else self.p_pos
        if p_mask + p_pos > 1:
            raise ValueError(
                f"--p-mask {p_mask:g} and --p-pos {p_pos:g} make more than 1: "
                "a word is masked or replaced, not both"
            )
        if self.candidates == "mlm" and self.embeddings is not None:
            raise ValueError("--embeddings is for --candidates embeddings or both, not mlm: leave it out")
        if self.candidates == "embeddings" and self.mlm is not None:
            raise ValueError("--mlm is for --candidates mlm or both, not embeddings: leave it out")
        if self.candidates == "embeddings" and self.embeddings is None:
            raise ValueError(
                "--candidates embeddings needs a table: give --embeddings FILE_OR_MODEL, "
                "such as glove.6B.300d.txt or google-bert/bert-base-uncased"
            )
        return self

    def dependent_defaults(self) -> dict[str, Any]:
        """Return what the options that are `None` stand for, given the others."""
        if self.rule == "tang":
            return {
                "variants": 10 if self.is_pair else 20,
                "p_mask": P_MASK,
                "p_pos": P_POS,
                "p_ngram": 0.25,
                "max_ngram": 5,
                "mask_token": "[MASK]",
            }
        bert = "google-bert/bert-base-uncased"
        return {
            "variants": 20,
            "p_replace": 0.4,
            "top_k": 15,
            "candidates": "both",
            "precision": "auto",
            "mlm": None if self.candidates == "embeddings" else bert,
            "embeddings": None if self.candidates == "mlm" else self.mlm or bert,
        }


# The options of one rule alone.
RULE_OPTIONS: dict[str, tuple[str, ...]] = {
    "tang": ("p_mask", "p_pos", "p_ngram", "max_ngram", "mask_token"),
    "tinybert": ("p_replace", "top_k", "candidates", "mlm", "embeddings", "precision", "device"),
}
