"""Train the tiny umT5 encoder and its SentencePiece vocabulary (docs/ccl-tiny.md).

The encoder learns what a caption states (size, colour, shape, motion, sound of one or two objects, an
off-screen sound, a bed of noise; each may be left open) and to restore masked words. Every token that speaks
of one object must give all attributes of that object through linear probes: a cross-attention that looks for
a colour finds the motion and the sound that belong to it. Tokens of the off-screen sound give that sound and
that it is off screen. Over all tokens, pooled probes must give the first object spoken of and the second, the
off-screen sound and the bed.
"""

from __future__ import annotations

import json
import logging
import random
from dataclasses import asdict, dataclass
from itertools import accumulate, product
from pathlib import Path

import comfy.ops
import comfy.text_encoders.t5
import sentencepiece
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from ..world.clip import Ambience, Attributes
from ..world.sounds import SOUNDS
from ..world.synonyms import WORDS
from .vocabulary import PAD, UNKNOWN, draw_caption, taught, train_vocabulary

log = logging.getLogger(__name__)

# The byte fallback leaves the unknown piece unused.
MASKED = UNKNOWN


@dataclass(frozen=True)
class TextRecipe:
    """How the encoder is built and trained."""

    vocab_size: int = 1024
    d_model: int = 96
    num_layers: int = 3
    num_heads: int = 6
    d_kv: int = 16
    d_ff: int = 288
    min_length: int = 48
    batch: int = 64
    steps: int = 4000
    learning_rate: float = 3e-3
    seed: int = 0
    evaluated: int = 4000

    def model_config(self) -> dict:
        """The part of the recipe that the host needs to build the encoder."""
        sizes = ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers")
        fixed = {"model_type": "umt5", "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True}
        return {**{key: getattr(self, key) for key in sizes}, **fixed}


PLACES = ("first", "second")
# What a whole caption states, and what a token states of what it speaks of: each a class, 0 for nothing.
LABELS = {f"{kind}_{place}": tuple(words) for place in PLACES for kind, words in WORDS.items()} | {
    "offscreen": SOUNDS,
    "bed": (True,),
}
OWN = {kind: tuple(words) for kind, words in WORDS.items()} | {"place": ("off screen",)}
# The class that a cross-entropy leaves out.
NOBODY = -100


class Probes(nn.Module):
    """Read the attributes and the words back from the encoder's output; thrown away after training."""

    def __init__(self, d_model: int, vocab_size: int) -> None:
        super().__init__()
        self.queries = nn.ParameterDict({label: nn.Parameter(torch.randn(d_model) * 0.1) for label in LABELS})
        self.pooled = nn.ModuleDict(
            {label: nn.Linear(d_model, len(words) + 1) for label, words in LABELS.items()}
        )
        self.own = nn.ModuleDict({kind: nn.Linear(d_model, len(words) + 1) for kind, words in OWN.items()})
        self.words = nn.Linear(d_model, vocab_size)

    def pool(self, x: torch.Tensor, mask: torch.Tensor, label: str) -> torch.Tensor:
        """Attention of one learned query over the tokens, then a linear readout."""
        scores = (x @ self.queries[label]).masked_fill(mask == 0, -1e9)  # (b, t)
        return self.pooled[label]((scores.softmax(-1)[..., None] * x).sum(1))  # (b, classes)

    def attribute_loss(self, x: torch.Tensor, mask: torch.Tensor, captions: Captions) -> torch.Tensor:
        """Cross-entropy of every attribute: from the pooled output, and from tokens for their own object."""
        loss = x.new_zeros(())
        for label, classes in captions.labels.items():
            loss = loss + F.cross_entropy(self.pool(x, mask, label), classes)
        for kind, classes in captions.own.items():
            loss = loss + F.cross_entropy(
                self.own[kind](x).flatten(0, 1), classes.flatten(), ignore_index=NOBODY
            )
        return loss

    def word_loss(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the original word at every real position, masked or not."""
        return F.cross_entropy(self.words(x).flatten(0, 1), tokens.flatten(), ignore_index=PAD)


def build_encoder(recipe: TextRecipe) -> comfy.text_encoders.t5.T5:
    """The host's own T5, initialised for training. The final norm stays 1: the output has rms 1."""
    model = comfy.text_encoders.t5.T5(
        recipe.model_config(), torch.float32, "cpu", comfy.ops.disable_weight_init
    )
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.ones_(parameter)
        elif "relative_attention_bias" in name:
            nn.init.normal_(parameter, std=0.1)
        else:
            nn.init.normal_(parameter, std=1.0 if name == "shared.weight" else parameter.shape[1] ** -0.5)
        # The host multiplies k by sqrt(d_kv) to undo the scale of its attention; T5 starts q small instead.
        if name.endswith("SelfAttention.q.weight"):
            parameter.data.mul_(recipe.d_kv**-0.5)
    model.encoder.final_layer_norm.weight.requires_grad_(False)
    return model


def encode(model: nn.Module, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the encoder as the host does: padding is not seen and comes out as zeros."""
    mask = (tokens != PAD).long()  # (b, t)
    x, _ = model(tokens, mask)
    return x * mask[..., None], mask  # (b, t, d)


@dataclass(frozen=True)
class Captions:
    """A batch with what it states. Class 0 of an attribute means that it is left open.

    tokens (b, t); labels: by name of LABELS, (b,); own: by name of OWN, (b, t), that of the object or
    off-screen sound which a token speaks of, NOBODY where the token speaks of none.
    """

    tokens: torch.Tensor
    labels: dict[str, torch.Tensor]
    own: dict[str, torch.Tensor]

    def __getitem__(self, rows: slice) -> Captions:
        labels = {label: classes[rows] for label, classes in self.labels.items()}
        own = {kind: classes[rows] for kind, classes in self.own.items()}
        return Captions(self.tokens[rows], labels, own)


class Batches:
    """Draw captions as padded token ids with what they state."""

    def __init__(self, vocabulary: bytes, recipe: TextRecipe, rng: random.Random) -> None:
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary, add_eos=True)
        self.length = recipe.min_length
        self.rng = rng

    def tokens(self, captions: list[str]) -> torch.Tensor:
        return padded(self.processor.encode(captions), PAD)  # (b, t)

    def owners(self, caption: str, owners: list[int]) -> list[int]:
        """By token, what its last character speaks of; -1 for what ends the caption."""
        pieces = self.processor.encode(caption, out_type=str)[:-1]
        ends = accumulate(
            map(len, pieces), initial=-1
        )  # the first piece brings a space that no caption begins with
        return [owners[end - 1] for end in list(ends)[1:]] + [-1]

    def draw(
        self, count: int, unseen: bool = False, objects: int | None = None, silent: bool | None = None
    ) -> Captions:
        stated = []
        owners = []
        while len(stated) < count:
            drawn = draw_caption(self.rng, unseen, objects, silent)
            found = self.owners(drawn.caption, drawn.owners)
            if len(found) <= self.length:
                stated.append(drawn)
                # What ends a caption and what joins its words speak of its only object.
                owners.append(found if len(drawn.things) == 2 else [max(owner, 0) for owner in found])
        labels = labels_of([drawn.things for drawn in stated], [drawn.ambience for drawn in stated])
        tokens = self.tokens([drawn.caption for drawn in stated])
        return Captions(tokens, labels, own_labels(labels, padded(owners, -1)))


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])  # (b, t)


def own_labels(labels: dict[str, torch.Tensor], owners: torch.Tensor) -> dict[str, torch.Tensor]:
    """By name of OWN, the class of what each token speaks of. owners, out: (b, t)"""
    nothing = torch.zeros_like(labels["offscreen"])
    beyond = {"sound": labels["offscreen"], "place": nothing + 1}
    own = {}
    for kind in OWN:
        # In the order of the owners: both objects, and what is off screen.
        rows = [*(labels.get(f"{kind}_{place}", nothing) for place in PLACES), beyond.get(kind, nothing)]
        classes = torch.stack(rows, dim=1)  # (b, 3)
        own[kind] = classes.gather(1, owners.clamp(min=0)).masked_fill(owners < 0, NOBODY)
    return own


def labels_of(stated: list[tuple[Attributes, ...]], ambiences: list[Ambience]) -> dict[str, torch.Tensor]:
    """One class per caption for every attribute of the first and of the second object, and around them."""
    classes = {kind: (None, *words) for kind, words in WORDS.items()}
    # A caption of one object leaves the second open.
    rows = [(*things, Attributes())[:2] for things in stated]
    labels = {}
    for place, kind in product(range(len(PLACES)), WORDS):
        found = [classes[kind].index(getattr(things[place], kind)) for things in rows]
        labels[f"{kind}_{PLACES[place]}"] = torch.tensor(found)
    labels["offscreen"] = torch.tensor([(None, *SOUNDS).index(around.offscreen) for around in ambiences])
    labels["bed"] = torch.tensor([int(around.bed) for around in ambiences])
    return labels


def read(model: nn.Module, probes: Probes, captions: Captions) -> dict[str, torch.Tensor]:
    """By label, for which captions it is read correctly, (b,)"""
    x, mask = encode(model, captions.tokens)
    return {
        label: probes.pool(x, mask, label).argmax(-1) == wanted for label, wanted in captions.labels.items()
    }


def read_tokens(model: nn.Module, probes: Probes, captions: Captions) -> torch.Tensor:
    """Which tokens give everything of what they speak of, (b, t); those that speak of nothing do not."""
    x, _ = encode(model, captions.tokens)
    right = torch.stack([probes.own[kind](x).argmax(-1) == wanted for kind, wanted in captions.own.items()])
    return right.all(0)


def share(right: torch.Tensor) -> float:
    return right.float().mean().item()


def train_text_encoder(recipe: TextRecipe) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return the state dict in the host's names, vocabulary included, and the held-out measurements."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    vocabulary = train_vocabulary(rng, recipe.vocab_size)
    batches = Batches(vocabulary, recipe, rng)
    model = build_encoder(recipe)
    probes = Probes(recipe.d_model, recipe.vocab_size)
    _fit(model, probes, batches, recipe)
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    # What is measured are the rounded weights, which are those that ship.
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    report = _measure(model, probes, batches, recipe)
    return {**weights, "spiece_model": torch.frombuffer(bytearray(vocabulary), dtype=torch.uint8)}, report


@torch.no_grad()
def _measure(model: nn.Module, probes: Probes, batches: Batches, recipe: TextRecipe) -> dict[str, float]:
    """Of held-out captions: those read correctly in all they state, by kind of caption and by label."""
    drawn = {
        "held_out": batches.draw(recipe.evaluated // 2, unseen=True, objects=1, silent=False),
        "held_out_pairs": batches.draw(recipe.evaluated // 2, unseen=True, objects=2, silent=False),
        "silent": batches.draw(recipe.evaluated // 4, objects=1, silent=True),
        "silent_pairs": batches.draw(recipe.evaluated // 4, unseen=True, objects=2, silent=True),
    }
    found = {name: read(model, probes, captions) for name, captions in drawn.items()}
    report = {
        f"accuracy_{name}": share(torch.stack([*right.values()]).all(0)) for name, right in found.items()
    }
    for label in LABELS:
        report[f"accuracy_{label}"] = share(torch.cat([right[label] for right in found.values()]))
    heard = torch.cat([captions.labels["offscreen"] for captions in drawn.values()]) > 0
    beyond = torch.cat([right["offscreen"] for right in found.values()])
    nothing = Captions(batches.tokens([""]), labels_of([(Attributes(),)], [Ambience()]), {})
    x, mask = encode(model, drawn["held_out_pairs"].tokens)
    return {
        **report,
        "accuracy_offscreen_there": share(beyond[heard]),
        **_measure_tokens(model, probes, drawn["held_out_pairs"]),
        "accuracy_empty": share(torch.stack([*read(model, probes, nothing).values()]).all(0)),
        "token_std": x[mask.bool()].std().item(),
    }


def _measure_tokens(model: nn.Module, probes: Probes, captions: Captions) -> dict[str, float]:
    """Share of the tokens that give everything of the object, or off-screen sound, which they speak of."""
    right = read_tokens(model, probes, captions)
    place = captions.own["place"]
    return {
        "accuracy_own_pairs": share(right[place == 0]),
        "accuracy_own_offscreen": share(right[place == 1]),
    }


def _fit(model: nn.Module, probes: Probes, batches: Batches, recipe: TextRecipe) -> None:
    trained = [p for p in (*model.parameters(), *probes.parameters()) if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, recipe.steps, pct_start=0.05
    )
    for step in range(recipe.steps):
        # The host's T5 adds in place; without a copy autograd would find its saved inputs overwritten.
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x if x.is_leaf else x.clone(), lambda x: x):
            stated, words = _losses(model, probes, batches.draw(recipe.batch))
        optimiser.zero_grad()
        (stated + words).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == recipe.steps - 1:
            log.info("step %d: attributes %.4f, words %.4f", step, stated.item(), words.item())


def _losses(model: nn.Module, probes: Probes, captions: Captions) -> tuple[torch.Tensor, torch.Tensor]:
    """The first half of the batch has masked words; the second keeps every word that its labels ask for."""
    tokens = captions.tokens
    half = len(tokens) // 2
    # The share of BERT (arXiv 1810.04805).
    hidden = (torch.rand(tokens.shape) < 0.15) & (tokens > UNKNOWN)
    hidden[half:] = False
    x, mask = encode(model, tokens.masked_fill(hidden, MASKED))
    return probes.attribute_loss(x[half:], mask[half:], captions[half:]), probes.word_loss(x, tokens)


def write_text_encoder(path: Path, recipe: TextRecipe) -> None:
    """Train, and write one safetensors file whose metadata `text_encoder` is what the loader needs."""
    weights, report = train_text_encoder(recipe)
    log.info("%s", json.dumps(report))
    config = {
        "umt5xxl_model_config": recipe.model_config(),
        "min_length": recipe.min_length,
        **taught(),
    }
    metadata = {"text_encoder": config, "text_encoder_training": {**asdict(recipe), **report}}
    save_file(weights, path, {key: json.dumps(value) for key, value in metadata.items()})
