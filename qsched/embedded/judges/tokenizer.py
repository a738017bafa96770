"""A byte-pair tokenizer of some 3,000 entries, learnt from captions and search tags, saved in Hugging Face's
layout so that open_clip loads it.
"""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, START, UNKNOWN, END = "<pad>", "<start>", "<unk>", "<end>"
EXTRA_WORDS = (
    "a an the of on and with two three picture image photo emoji icon drawing style classic flat "
    "glossy retro simple good bad quality background "
    "white black red orange yellow green blue purple pink brown gray big small one"
)


def train_tokenizer(
    texts: list[str], folder: Path, vocabulary: int = 2048, context_length: int = 16
) -> PreTrainedTokenizerFast:
    """Learn the vocabulary from texts and write tokenizer.json beside the model.

    END gets the highest id: open_clip pools the text tower at the arg-max of the ids.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        special_tokens=[PAD, START, UNKNOWN],
        end_of_word_suffix="</w>",
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *[EXTRA_WORDS] * 20], trainer)
    tokenizer.add_special_tokens([END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (START, END)],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=context_length,
    )
    fast.save_pretrained(folder)
    fast.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)  # half the bytes
    return fast
