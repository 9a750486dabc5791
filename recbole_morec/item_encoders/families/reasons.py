"""Why some families are no item encoders, in plain words.

Most of them read more or other things than an item has. A family that is listed here is tried all
the same; the reason takes the place of an error from deep inside its code.
"""

from __future__ import annotations

_VIDEO = "reads video, not images"
_PAIRS = "matches pairs of images"
_SOUND = "makes sound of text and gives no states of it"
_CODES = "reads the codes of sound beside its text"
_PLACES = "wants the place of every word on a page (bbox)"
_MASK = "transformers reads a batch with padding left to right, and one without both ways"
_BOTH = "wants text and image at once; each half alone is not an encoder"

REASONS: dict[tuple[str, str], str] = {
    ("efficientloftr", "image"): _PAIRS,
    ("lightglue", "image"): _PAIRS,
    ("mgp-str", "image"): "reads letters off an image and gives no image tokens",
    ("kosmos-2.5", "image"): "reads flattened patches that are normalised image by image",
    ("oneformer", "image"): "wants the name of a task beside the image",
    ("omdet-turbo", "image"): "wants the names of classes beside the image",
    ("seggpt", "image"): "wants an example image and its mask beside the image",
    ("timesformer", "image"): _VIDEO,
    ("videomae", "image"): _VIDEO,
    ("videoprism", "image"): _VIDEO,
    ("vivit", "image"): _VIDEO,
    ("xclip", "image"): _VIDEO,
    ("aimv2", "text"): _MASK,
    ("bros", "text"): _PLACES,
    ("fastspeech2_conformer", "text"): _SOUND,
    ("fastspeech2_conformer_with_hifigan", "text"): _SOUND,
    ("kyutai_speech_to_text", "text"): _CODES,
    ("lxmert", "text"): _BOTH,
    ("musicgen", "text"): _CODES,
    ("musicgen_melody", "text"): _CODES,
    ("paligemma", "text"): _MASK,
    ("pi0", "text"): "wants the actions of a robot beside its text",
    (
        "reformer",
        "text",
    ): "its backward pass runs in train mode alone, and our probe is in eval mode",
    ("tvp", "text"): "wants a video beside its text",
    ("udop", "text"): _PLACES,
    ("vilt", "text"): _BOTH,
    ("vits", "text"): _SOUND,
}
