"""Tokenizers of the BiLSTM: words of the training texts, or the teacher's word-pieces."""

import json
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from distilkit.data.encoding import Tokenizer
from distilkit.errors import UserError

PAD, UNK = "[PAD]", "[UNK]"


def word_tokenizer(
    texts: Iterable[str], size: int, *, pairs: bool, max_length: int, truncation_side: str = "right"
) -> PreTrainedTokenizerFast:
    """Make a tokenizer of lower-case words and marks: the `size` most frequent, with `[PAD]` and `[UNK]`.

    Args:
        texts: those of the training split alone: having read validation text would flatter the scores.
        truncation_side: where a text that is too long is cut, as its teacher's is.

    Raises:
        UserError: when there is no word in the texts.
    """
    backend = Backend(models.WordLevel(unk_token=UNK))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(
        _batches(texts),
        trainers.WordLevelTrainer(vocab_size=size, special_tokens=[PAD, UNK], show_progress=False),
    )
    if backend.get_vocab_size() <= 2:
        raise UserError(
            "the training texts hold no word to make a vocabulary of. Use --vocabulary teacher, or "
            "other texts."
        )
    return _wrap(backend, PAD, UNK, pairs=pairs, max_length=max_length, truncation_side=truncation_side)


def piece_tokenizer(teacher: Tokenizer, *, pairs: bool, max_length: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer of the teacher's vocabulary and ids, without special tokens around a text.

    Raises:
        UserError: when the teacher's tokenizer has no `tokenizers` form to take over.
    """
    backend = getattr(teacher, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"the teacher's tokenizer ({type(teacher).__name__}) cannot be taken over. "
            "Use --vocabulary words."
        )
    copy = Backend.from_str(json.dumps(json.loads(backend.to_str()) | {"truncation": None, "padding": None}))
    return _wrap(
        copy,
        str(teacher.pad_token),
        teacher.unk_token,
        pairs=pairs,
        max_length=max_length,
        truncation_side=teacher.truncation_side,
    )


def _wrap(
    backend: Backend, pad: str, unk: str | None, *, pairs: bool, max_length: int, truncation_side: str
) -> PreTrainedTokenizerFast:
    # No special tokens: the two texts of a pair are told apart by their type ids, 0 and 1.
    backend.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if pairs else ["input_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad,
        unk_token=unk,
        model_input_names=inputs,
        model_max_length=max_length,
        padding_side="right",
    )
    tokenizer.truncation_side = truncation_side
    return tokenizer


def _batches(texts: Iterable[str], size: int = 1000) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch
