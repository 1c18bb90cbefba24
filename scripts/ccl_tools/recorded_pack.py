"""All that the recorded runs take of the pack: where a version moves something, this file alone changes.

Import it after `load_pack`.
"""

from ccl_pack.ccl_core.attention_maps import Recorder
from ccl_pack.ccl_core.guidance import MODES, TermScale
from ccl_pack.ccl_core.host.files.build import load_checkpoint, load_model
from ccl_pack.ccl_core.host.files.lora import Strengths, apply_lora
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.host.media.decode import decode_audio, decode_video
from ccl_pack.ccl_core.host.texts import StreamTexts
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.training.flow import SEPARATE, Batch, Draw, losses

AUDIO_SHIFT = "audio_shift"  # the attribute of the host's model that an object patch may set

__all__ = [
    "AUDIO_SHIFT",
    "MODES",
    "SEPARATE",
    "AVGuider",
    "Batch",
    "Draw",
    "JointModel",
    "Recorder",
    "StreamTexts",
    "Strengths",
    "TermScale",
    "apply_lora",
    "decode_audio",
    "decode_video",
    "load_checkpoint",
    "load_model",
    "losses",
]
