"""What English captions are put together from. ``{a}`` is the subject with its article, ``{x}`` without.

No template speaks of anything cute on a white background: ``a cute {x} on white background`` is how the unseen wording
is tested.
"""

SHORT = [
    "{a}", "a picture of {a}", "an emoji of {a}", "an icon of {a}", "a drawing of {a}", "a photo of {a}",
    "an illustration of {a}", "a painting of {a}", "a sketch of {a}", "a cartoon of {a}", "an image of {a}",
    "a sticker of {a}", "clip art of {a}", "a digital drawing of {a}", "a close-up of {a}", "a render of {a}",
    "{x} illustration", "{x} emoji", "{x} icon", "{x} clip art", "{x} sticker", "{x} cartoon", "{x} symbol",
    "{a}, cartoon style", "{a}, flat design", "{a}, simple shapes", "{a}, vector art", "{a}, bright colors",
    "{a} in the style of an emoji", "{a}, digital art", "{a}, high quality", "{a}, seen from the front",
    "a tiny picture of {a}", "a simple drawing of {a}", "a colorful picture of {a}", "this is {a}", "here is {a}",
    "it shows {a}", "there is {a} here", "just {a}", "show me {a}", "draw {a}", "I see {a}",
    "a child's drawing of {a}", "{a}, nothing else", "one picture: {x}",
]  # fmt: skip

KEYWORDS = [
    "{x}", "{x}", "{x}", "{x} emoji", "{x} icon", "{x} picture", "emoji: {x}", "icon, {x}", "{x}, clip art",
    "{x} symbol",
]  # fmt: skip
"""Of words that are no phrase together, such as ``sad, face``."""

ADJECTIVES = [
    "small", "big", "simple", "beautiful", "bright", "little", "pretty", "nice", "lovely", "plain", "funny", "tiny",
    "large", "single", "playful", "colorful", "cheerful", "shiny", "neat", "friendly", "perfect", "typical",
]  # fmt: skip

OPENING = [
    "{A}", "{A}", "{A}", "A close view of {a}", "A photo of {a}", "A detailed view of {a}", "A photograph of {a}",
    "A warm picture of {a}", "A quiet scene with {a}", "A scene with {a}", "A sharp image of {a}", "A portrait of {a}",
]  # fmt: skip

DOES = [
    ("sits", "sit"), ("stands", "stand"), ("rests", "rest"), ("is shown", "are shown"), ("appears", "appear"),
    ("shines", "shine"), ("is playing", "are playing"), ("lies", "lie"), ("glows softly", "glow softly"),
    ("is placed", "are placed"), ("floats", "float"), ("waits", "wait"), ("moves gently", "move gently"),
    ("looks up", "look up"), ("is", "are"), ("can be seen", "can be seen"), ("rises", "rise"), ("hangs", "hang"),
    ("is resting", "are resting"), ("stands proudly", "stand proudly"), ("is found", "are found"),
]  # fmt: skip
"""Verbs for one and for several."""

DOING = [
    "sitting", "standing", "resting", "playing", "lying", "floating", "waiting", "shining", "placed", "seen", "",
]  # fmt: skip

WHERE = [
    "on the beach", "on a wooden table", "in the garden", "under a blue sky", "in soft light", "on green grass",
    "by the sea", "near a window", "against a plain background", "in the morning sun", "in the rain", "at night",
    "on a sandy shore with gentle waves", "in a quiet room", "over the sea", "on a city street", "on a shelf",
    "in a field of flowers", "with a garden behind it", "at sunset", "among tall trees", "beside a calm lake",
    "in the snow", "in the center of the frame", "on a stone floor", "in a busy market", "under the stars",
    "on a hill", "in a sunny park", "beside a river", "in a small kitchen", "in an old house", "on a mountain path",
    "in front of a wall", "in the desert", "in the fog", "on a chair", "in the corner of a room",
    "at the edge of a forest", "on white paper", "in front of a white wall", "on a light background",
    "on a clean background", "on a red carpet", "in front of a grey wall", "by the blue sea", "on a yellow beach",
    "among purple flowers", "on a brown board", "under pink clouds", "against a black night sky",
    "on a golden field", "in an orange sunset",
]  # fmt: skip

MOOD = [
    "with warm light and gentle shadows", "surrounded by soft colors", "bathed in golden sunlight", "with fine detail",
    "calm and still", "smooth and round", "seen from the front", "looking happy", "with a soft shadow below",
    "in vivid colors", "with clean lines", "full of life", "lit from above", "under a cloudy sky",
    "with a gentle breeze", "as the sun goes down", "with nobody around", "its colors bright and clear",
    "its shape clear against the sky", "its edges sharp and clean", "its surface smooth and shiny",
    "while the wind blows", "in a peaceful mood", "with a hint of mystery", "like in a children's book",
    "in great detail", "waiting for the day to begin", "a symbol of hope and joy", "a small and quiet moment",
    "drawn with care",
]  # fmt: skip
