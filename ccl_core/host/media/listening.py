"""A decoded sound is listened to: silence, its end, clipping, an offset, hiss, another loudness than given.

Nothing is changed. What a person would hear of it stands in one line on the node. NaN is looked for in
`damage.py`.
"""

from __future__ import annotations

import math

import torch
import torchaudio

from ...notices import notice

BLOCK = 0.4  # s, of a loudness (ITU-R BS.1770-5)
# Of a decoded sound against the given one it was made of: half or twice the amplitude is heard at once. The
# audio VAE of ccl-tiny returns the sounds that it was trained on within 1.6 dB.
LOUDNESS_STEP = 6.0  # dB
# As loud as a full-scale tone, with no room for peaks: the loudest masters of records reach about -6.
LOUDEST = -6.0  # LKFS
# A decoder that clamps holds its largest value; a tone of 50 Hz at 48 kHz never does.
HELD, TOP, HELD_SHARE = 1e-6, 0.95, 0.001
OFFSET = 0.02  # -34 dB: heard as a click at every cut. Of 14 real recordings one has more, by a fault.
# Of full scale: -60 dB, below the noise of a quiet room. What is softer until the end, so many seconds long
# and this share of the clip, is no pause.
UNHEARD, ENDED, ENDED_SHARE = 1e-3, 2.0, 0.25
# Hiss is noise that stays in the pauses: even over frequency (room tone of films: .1 to .6, white noise .98),
# audible, and so far below the sound that it is no part of it, as rain or a crowd would be (3 to 9 dB).
HISS_BAND = (1000.0, 7000.0)  # Hz
HISS_EVEN, HISS_LEVEL, HISS_BELOW = 0.7, -55.0, (10.0, 30.0)  # level in dB of full scale


def tell_of_sound(waveform: torch.Tensor, rate: int, given: tuple[torch.Tensor, int] | None = None) -> None:
    """A notice with what is wrong with a decoded sound (b, ch, n); none where all is well.

    given: the sound (b or 1, ch, n) and its rate that stood in the latent from the start of the clip on.
    """
    told = []
    for number, clip in enumerate(waveform):
        original = None if given is None else (given[0][min(number, len(given[0]) - 1)], given[1])
        found = faults(clip, rate, original)
        if found:
            name = f"clip {number + 1}: " if len(waveform) > 1 else ""
            told.append(name + "; ".join(found))
    if told:
        notice(f"The decoded sound {'. '.join(told)}")


def faults(clip: torch.Tensor, rate: int, given: tuple[torch.Tensor, int] | None = None) -> list[str]:
    """What is wrong with a sound (ch, n), as sentences without their subject."""
    clip = clip.detach().float().cpu()
    level = loudness(clip, rate)
    if given is None and level == -math.inf:
        return ["is silent (nowhere above -70 LKFS). Describe a sound in the prompt, or sample another seed"]
    found = _own_faults(clip, rate, level)
    if given is None:
        return list(found.values())
    # What the given sound has too is no fault of the decoder.
    original = given[0].detach().float().cpu()
    same = _own_faults(original, given[1], loudness(original, given[1]))
    added = [text for kind, text in found.items() if kind not in same]
    return [*_beside(clip, rate, original, given[1]), *added]


def _own_faults(clip: torch.Tensor, rate: int, level: float) -> dict[str, str]:
    """Sentences by the kind of fault."""
    if level == -math.inf:
        return {}
    found = {
        "clipping": _clipping(clip, level),
        "offset": _offset(clip),
        "hiss": _hiss(clip, rate),
        "end": _end(clip, rate),
    }
    return {kind: text for kind, text in found.items() if text}


def loudness(clip: torch.Tensor, rate: int) -> float:
    """Integrated loudness of (ch, n) in LKFS (ITU-R BS.1770-5); -inf where no .4 s of it exceed -70."""
    if clip.numel() == 0 or not clip.any():
        return -math.inf
    # A sound shorter than a block counts as one that goes on in silence.
    clip = torch.nn.functional.pad(clip, (0, max(0, round(BLOCK * rate) - clip.shape[-1])))
    # torchaudio clamps what its filters let exceed full scale, and these add up to 4 dB.
    scale = min(1.0, 0.5 / clip.abs().max().item())
    measured = torchaudio.functional.loudness(clip[:5] * scale, rate).item()
    return -math.inf if math.isnan(measured) else measured - 20 * math.log10(scale)


def _beside(clip: torch.Tensor, rate: int, original: torch.Tensor, original_rate: int) -> list[str]:
    """How far a sound is from the loudness of the given one, as long as both last."""
    seconds = min(clip.shape[-1] / rate, original.shape[-1] / original_rate)
    wanted = loudness(original[:, : round(seconds * original_rate)], original_rate)
    level = loudness(clip[:, : round(seconds * rate)], rate)
    if wanted == level or abs(wanted - level) < LOUDNESS_STEP:
        return []
    how = f"{abs(level - wanted):.0f} dB {'louder' if level > wanted else 'softer'} than"
    if level == -math.inf:
        how = f"silent beside the {wanted:.0f} LKFS of"
    if wanted == -math.inf:
        how = "not silent, unlike"
    return [
        f"is {how} the given one: the audio VAE does not know sounds of this level. Choose original in given "
        "to have the given sound itself"
    ]


def _clipping(clip: torch.Tensor, level: float) -> str:
    peak = clip.abs().max()
    held = (clip.diff().abs() <= HELD * peak) & (clip[:, 1:].abs() > TOP * peak)
    share = held.float().mean().item()
    if share > HELD_SHARE:
        return f"is clipped ({share:.1%} of its samples). Sample again with a lower audio_cfg"
    if level > LOUDEST:
        return f"is blown ({level:.0f} LKFS, loud records have -6). Sample again with a lower audio_cfg"
    return ""


def _end(clip: torch.Tensor, rate: int) -> str:
    heard = (clip.abs().amax(dim=0) > UNHEARD).nonzero().max().item() + 1
    seconds, all_seconds = heard / rate, clip.shape[-1] / rate
    if all_seconds - seconds < max(ENDED, ENDED_SHARE * all_seconds):
        return ""
    return (
        f"is silent from {seconds:.1f} s on, of {all_seconds:.1f} s. Make a shorter clip (Video Slice cuts a "
        "film), or say what is heard until its end"
    )


def _offset(clip: torch.Tensor) -> str:
    offset = clip.mean(-1)[clip.mean(-1).abs().argmax()].item()
    if abs(offset) <= OFFSET:
        return ""
    return f"has an offset of {offset:.3f} (DC), which clicks at cuts. Cut low frequencies to remove it"


def _hiss(clip: torch.Tensor, rate: int) -> str:
    size = rate // 20  # 50 ms
    if rate < 2 * HISS_BAND[1] or clip.shape[-1] < 20 * size:
        return ""
    window = torch.hann_window(size)
    spectrum = torch.stft(clip.mean(0), size, size // 2, window=window, center=False, return_complex=True)
    power = spectrum.abs().square() * 2 / (size * window.square().sum())  # (k, frames) of full scale
    frequencies = torch.arange(len(power)) * rate / size
    power = power[(frequencies >= HISS_BAND[0]) & (frequencies < HISS_BAND[1])]
    levels = 10 * torch.log10(power.sum(0).clamp(min=1e-12))
    floor, loud = levels.quantile(0.1).item(), levels.quantile(0.95).item()
    pauses = power[:, levels <= levels.quantile(0.2)].mean(1).clamp(min=1e-15)
    even = (pauses.log().mean().exp() / pauses.mean()).item()
    if even < HISS_EVEN or floor < HISS_LEVEL or not HISS_BELOW[0] <= loud - floor <= HISS_BELOW[1]:
        return ""
    return f"hisses at {floor:.0f} dB in its pauses. Sample again with more steps"
