"""Every template and blueprint: a row for each job and model, with the prompt that it opens with."""

from __future__ import annotations

from dataclasses import dataclass

from ccl_tools import releases, template_jobs
from ccl_tools.releases import Release
from ccl_tools.template_jobs import Job, Texts

FISHERMAN = Texts(
    "A weathered fisherman in a yellow raincoat sits on an old wooden pier at dusk. He looks into the "
    'camera and says calmly: "The sea gives, and the sea takes." Small waves lap at the posts. A gull '
    "flies past. Medium close-up, warm light of a lantern.",
    "A calm old voice, small waves, a gull",
)
PHOTO = Texts(
    'The person in the picture smiles, looks into the camera and says: "I was a photo a moment ago." Then '
    "a quiet laugh. The camera stands still.",
    "A warm voice in a quiet room",
)
HOME = Texts(
    'The person in the picture turns to the camera, smiles and says: "It is time to go home." Leaves move '
    "in the wind. The camera stands still.",
    "A calm voice, wind in leaves",
)
OF_PRISM = Texts(
    "Continuous wind in trees. A medium close-up of the person in the picture in soft daylight. The person "
    'turns to the camera, smiles and says in a calm voice: "It is time to go home." Leaves move in the '
    "wind. The camera stands still.",
    "leaves rustling",
)
FOOTSTEPS = Texts("A person walks along a gravel path.", "Footsteps on gravel, birds, light wind")
SINGER = Texts("A singer on a small stage in warm light, close-up, looks into the camera and sings.")
WALK_ON = Texts("The scene goes on as it began, with the same camera.", "The same sounds go on")


@dataclass(frozen=True)
class Row:
    """given: what a person gives, by the input of the subgraph; blueprint: the search of nodes finds it too.

    The search reads names alone: the words people type stand in the first 30 letters.
    """

    name: str
    job: Job
    release: Release
    texts: Texts
    given: str | None = None
    blueprint: bool = True


TABLE = (
    Row(
        "Text to Video with Sound (tiny)",
        template_jobs.text_to_video,
        releases.TINY,
        Texts("a green square blinks, horn, and a yellow ball slides, click"),
    ),
    Row(
        "Image to Video with Sound (tiny)",
        template_jobs.image_to_video,
        releases.TINY,
        Texts("a red ball bounces, drum"),
        "image",
    ),
    Row(
        "Sound for Video, Foley, Dub (tiny)",
        template_jobs.sound_for_video,
        releases.TINY,
        Texts("a red ball bounces, bell"),
        "video",
    ),
    Row(
        "Video for Sound (tiny)",
        template_jobs.video_for_sound,
        releases.TINY,
        Texts("a green square bounces, drum"),
        "audio",
    ),
    Row(
        "Extend Video with Sound (tiny)",
        template_jobs.extend_video,
        releases.TINY,
        Texts("a red ball bounces, drum"),
        "video",
    ),
    Row(
        "Text to Sound (tiny)", template_jobs.text_to_sound, releases.TINY, Texts("a red ball bounces, bell")
    ),
    Row("Ovi 1.1 Text to Video with Sound", template_jobs.text_to_video, releases.OVI, FISHERMAN),
    Row("Ovi 1.1 Image to Video with Sound", template_jobs.image_to_video, releases.OVI, PHOTO, "image"),
    Row("Ovi 1.1 Add Soundtrack to Video", template_jobs.sound_for_video, releases.OVI, FOOTSTEPS, "video"),
    Row("Ovi 1.1 Video for Sound", template_jobs.video_for_sound, releases.OVI, SINGER, "audio"),
    Row("Ovi 1.1 Extend Video with Sound", template_jobs.extend_video, releases.OVI, WALK_ON, "video"),
    Row(
        "Ovi 1.1 Text to Video with Sound, LoRA",
        template_jobs.text_to_video,
        releases.OVI_LORA,
        FISHERMAN,
        blueprint=False,
    ),
    Row(
        "Ovi 1.1 Text to Video with Sound, Low Memory",
        template_jobs.text_to_video,
        releases.OVI_LOW,
        FISHERMAN,
        blueprint=False,
    ),
    Row("Ovi 1.0 Text to Video with Sound", template_jobs.text_to_video, releases.OVI_OLD, FISHERMAN),
    Row("MOVA Image to Video with Sound", template_jobs.first_image_to_video, releases.MOVA, HOME, "image"),
    Row("MOVA Text to Video with Sound", template_jobs.white_image_to_video, releases.MOVA, FISHERMAN),
    Row(
        "MOVA Image to Video with Sound, Low Memory",
        template_jobs.first_image_to_video,
        releases.MOVA_LOW,
        HOME,
        "image",
        blueprint=False,
    ),
    Row(
        "Prism Image to Video with Sound",
        template_jobs.first_image_to_video,
        releases.PRISM,
        OF_PRISM,
        "image",
    ),
    Row(
        "Prism Image to Video with Sound, LoRA, 8 Steps",
        template_jobs.first_image_to_video,
        releases.PRISM_FEW_STEPS,
        OF_PRISM,
        "image",
        blueprint=False,
    ),
    Row(
        "Wan Audio Text to Video with Sound (CCL)",
        template_jobs.text_to_video,
        releases.CCL_ON_WAN,
        FISHERMAN,
    ),
)
