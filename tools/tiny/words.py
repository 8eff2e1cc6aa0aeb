"""The embedded model's tokenizer: a byte-level BPE in a Hugging Face folder, as open_clip reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from clearclip.scenes.classes import CLASSES, COLOURED, OTHER_WORDS, PARTS
from clearclip.scenes.generate import make_scene

PAD, START, END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"
CONTEXT_LENGTH = 77
_MOST_PIECES = 1024


def caption_corpus(pictures: int = 1500) -> list[str]:
    """Texts that the tokenizer learns its words from: training captions, class names and the 80 prompts."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    texts = [text for index in range(pictures) for text in make_scene(index, split="train", size=(32, 40)).captions]
    others = {word for words in OTHER_WORDS.values() for word in words}
    texts += [f" {name}" for name in sorted({*CLASSES, *PARTS, *others})] * 10
    texts += [f" {colour} {name}" for name, colours in COLOURED.items() for colour in colours if colour] * 2
    texts += [template("car") for template in OPENAI_IMAGENET_TEMPLATES] * 2
    return texts


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn a lower-casing byte-level BPE: every UTF-8 text can be encoded, unknown words are split.

    The end token has the highest number, because open_clip's text tower finds the end by `argmax`; padding is 0.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_MOST_PIECES,
        min_frequency=2,
        special_tokens=[PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([START, END])
    numbers = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=numbers)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        padding_side="right",
        truncation_side="right",
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(folder: Path) -> int:
    """Make the tokenizer where open_clip's `local-dir:` looks for it, unless one is there, and return its size."""
    if (folder / "tokenizer.json").is_file():
        return len(PreTrainedTokenizerFast.from_pretrained(str(folder)))
    tokenizer = make_tokenizer(caption_corpus())
    tokenizer.save_pretrained(str(folder))
    return len(tokenizer)
