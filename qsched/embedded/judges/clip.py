"""The tiny CLIP: a text tower that conditions the denoiser, and with the image tower the judge (CLIPScore and
CLIP-IQA).

It is an ordinary open_clip model (`open_clip.create_model("local-dir:assets/emoji-clip")`);
qsched.embedded.judges.clip_training says how it learns. A new one's image tower is timm's EfficientNet-Lite0
at 96 px. An older one keeps its own.
"""

import json
import shutil
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor

from qsched.embedded.data import dataset
from qsched.embedded.data.known import known_words
from qsched.embedded.data.scenes import GROUNDS
from qsched.embedded.data.words import plural
from qsched.embedded.judges.tokenizer import train_tokenizer
from qsched.models.words import FILE

CONFIG_FILE = "open_clip_config.json"
CONTEXT_LENGTH = 24
VOCABULARY = 3072
CONFIG = {
    "model_cfg": {
        "embed_dim": 256,
        "vision_cfg": {
            "image_size": 96,
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": VOCABULARY,
            "hf_tokenizer_name": "tokenizer.json",
            "width": 256,
            "heads": 4,
            "layers": 3,
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


def new_clip(folder: Path, emoji: dataset.Emoji) -> tuple[CLIP, open_clip.tokenizer.HFTokenizer]:
    """A fresh model and its tokenizer; the folder gets config and vocabulary, unless it has them already."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / CONFIG_FILE
    if not config.exists():
        config.write_text(json.dumps(CONFIG, indent=1) + "\n")
    settings = json.loads(config.read_text())["model_cfg"]
    length, vocabulary = settings["text_cfg"]["context_length"], settings["text_cfg"]["vocab_size"]
    if not (folder / "tokenizer.json").exists():
        texts = [f"{name}, {style} style" for name in emoji.concepts for style in emoji.styles] + [
            " ".join(tags) for tags in emoji.tags
        ]
        train_tokenizer([*texts, *map(plural, emoji.concepts), *GROUNDS], folder, vocabulary, length)
    if not (folder / FILE).exists():
        (folder / FILE).write_text("\n".join(known_words(emoji)) + "\n", "utf-8")
    tokenizer = open_clip.tokenizer.HFTokenizer(str(folder), context_length=length)
    if len(tokenizer.tokenizer) > vocabulary:
        raise ValueError(f"the tokenizer has {len(tokenizer.tokenizer)} entries, the model only {vocabulary}")
    return CLIP(**settings), tokenizer


def load_clip(folder: Path, emoji: dataset.Emoji) -> tuple[CLIP, open_clip.tokenizer.HFTokenizer]:
    """A trained model, as it is in a folder, in evaluation mode, and its tokenizer."""
    model, tokenizer = new_clip(folder, emoji)
    return load_weights(model, folder).eval(), tokenizer


def read_alike(folder: Path, other: Path) -> None:
    """Give a folder the config and the tokenizer of another CLIP, for one that keeps the other's text tower.

    Raises:
        ValueError: if they are one folder: what is kept would be overwritten.
    """
    if folder.resolve() == other.resolve():
        raise ValueError(
            f"{folder} cannot be both what is begun with and what is written: name another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_FILE, "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(other / name, folder / name)


@torch.no_grad()
def warm_start(model: CLIP, tokenizer: open_clip.tokenizer.HFTokenizer, folder: Path) -> list[str]:
    """Copy from another CLIP whatever fits: tensors of equal name and shape, the embeddings of tokens that
    both know, and early positions.

    Returns the names of the tensors that were copied.
    """
    weights = load_file(folder / "open_clip_model.safetensors")
    other = open_clip.tokenizer.HFTokenizer(str(folder), context_length=CONTEXT_LENGTH).tokenizer.get_vocab()
    copied = []
    for name, own in model.state_dict().items():
        given = weights.get(name)
        if given is None:
            continue
        if name == "token_embedding.weight" and given.shape[1] == own.shape[1]:
            shared = [
                (i, other[token]) for token, i in tokenizer.tokenizer.get_vocab().items() if token in other
            ]
            mine, theirs = torch.tensor(shared).unbind(1)
            own[mine] = given[theirs].float()
        elif name == "positional_embedding" and given.shape[1] == own.shape[1]:
            own[: len(given)] = given[: len(own)].float()
        elif given.shape == own.shape:
            own.copy_(given)
        else:
            continue
        copied.append(name)
    return copied


def save_clip(weights: dict[str, Tensor], folder: Path) -> None:
    """Write weights as fp16 in open_clip's layout."""
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in weights.items()}
    save_file(half, folder / "open_clip_model.safetensors")


def load_weights(model: CLIP, folder: Path) -> CLIP:
    """Load what `save_clip` wrote."""
    model.load_state_dict(
        {
            k: v.float() if v.is_floating_point() else v
            for k, v in load_file(folder / "open_clip_model.safetensors").items()
        }
    )
    return model


def encode_texts(model: CLIP, tokens: Tensor) -> Tensor:
    """Text features of unit length, as model.encode_text gives them, without computing most of the padding:
    texts are encoded in groups of like length.
    """
    ends = tokens.argmax(-1)
    order = ends.argsort()
    features = []
    for rows in order.split(max(64, len(tokens) // 8)):
        length = int(ends[rows[-1]]) + 1
        states = model.token_embedding(tokens[rows, :length]) + model.positional_embedding[:length]
        states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
        features.append(states[torch.arange(len(rows)), ends[rows]] @ model.text_projection)
    return F.normalize(torch.cat(features)[order.argsort()], dim=-1)
