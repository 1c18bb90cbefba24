"""Parameters of the layers that the models are made of."""


def linear(inputs: int, outputs: int) -> int:
    """A projection with bias."""
    return inputs * outputs + outputs


def attention(queries: int, keys: int) -> int:
    """Projections q, k, v, o with bias and the two RMS norms, over the width of the queries."""
    return 2 * linear(queries, queries) + 2 * linear(keys, queries) + 2 * queries


def speech_text(width: int, blocks: int) -> int:
    """The features of a speech: an embedding of bytes, and blocks of a convolution, norm and two layers."""
    hidden = 2 * width
    block = 7 * width + width + 2 * width + linear(width, hidden) + 2 * hidden + linear(hidden, width)
    return 257 * width + blocks * block


def meeting(video: int, audio: int) -> int:
    """The attention of either stream on the other one."""
    return attention(video, audio) + attention(audio, video)
