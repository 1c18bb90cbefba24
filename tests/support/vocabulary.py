"""A SentencePiece vocabulary small enough to be trained while a test waits."""

import io

import sentencepiece

WORDS_SEEN = ("red", "blue", "ball", "square", "bounces", "falls", "drum", "bell")


def train_words(vocab_size: int) -> bytes:
    """The bytes of a model of the words seen, with the ids of umT5 and bytes for everything else."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"a {word}, {other}" for word in WORDS_SEEN for other in WORDS_SEEN] * 20),
        model_writer=model,
        user_defined_symbols=["\u2581" + word for word in WORDS_SEEN],
        vocab_size=vocab_size,
        model_type="unigram",
        byte_fallback=True,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
