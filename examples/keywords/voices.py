"""Who speaks: espeak-ng's voices, by split, its accents, and the words.

A voice is one of espeak-ng's variants, which set a speaker's formants, pitch, breath and roughness.
Variants that are one speaker retouched (`iven`, `iven2`, …) stand in one split. Accents, speeds and
pitches are drawn at random in every split: the test holds out voices, not England.
"""

from __future__ import annotations

ACCENTS = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
)

TRAIN_VOICES = (
    *("m1", "m2", "m4", "m5", "m6", "m8", "f1", "f2", "f4", "f5"),
    *("Alex", "Alicia", "Andrea", "Andy", "AnxiousAndy", "Gene", "Gene2", "Henrique", "Hugo"),
    *("Jacky", "Lee", "Mario", "Michael", "Mike", "Nguyen", "Storm", "Tweaky", "UniRobot"),
    *("RicishayMax", "RicishayMax2", "RicishayMax3", "adam", "anika", "anikaRobot", "antonio"),
    *("aunty", "benjamin", "boris", "caleb", "ed", "edward", "edward2", "grandma", "grandpa"),
    *("gustave", "iven", "iven2", "iven3", "iven4", "john", "kaukovalta", "klatt", "klatt2"),
    *("klatt3", "klatt4", "klatt5", "klatt6", "marcelo", "max", "michel", "miguel", "norbert"),
    *("pablo", "pedro", "quincy", "rob", "robosoft", "robosoft2", "robosoft3", "sandro", "shelby"),
    *("travis", "zac"),
)
"""Calibration hears these too."""

TEST_VOICES = (
    *("m3", "m7", "f3", "Annie", "Denis", "Diogo", "Marco", "belinda", "david", "linda", "paul"),
    *("robert", "steph", "steph2", "steph3", "victor"),
)

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
SILENCE, UNKNOWN = "_silence_", "_unknown_"
CLASSES = tuple(sorted((*KEYWORDS, SILENCE, UNKNOWN)))
"""In the order of the model's outputs, which is that of the folders."""

WORDS = (
    *("bed", "bird", "cat", "dog", "happy", "house", "tree", "wow", "zero", "one", "two", "three"),
    *("four", "five", "six", "seven", "eight", "nine", "backward", "forward", "follow", "learn"),
    *("visual", "marvin", "sheila", "yellow", "yesterday", "nothing", "never", "upper", "cup"),
    *("town", "dawn", "lift", "leaf", "light", "write-up", "rice", "gone", "goat", "gold", "stock"),
    *("step", "shop", "often", "office", "cough", "under", "honest", "onion", "open", "music"),
    *("window", "kitchen", "river", "paper", "morning", "people", "water", "number", "please"),
    *("again", "because", "question", "table", "little", "button", "garden", "hello", "today"),
)
"""Words that are no keywords, in every split."""

STRANGE_WORDS = (
    *("apple", "bottle", "clock", "doctor", "engine", "flower", "guitar", "hammer", "island"),
    *("jacket", "letter", "machine", "orange", "pencil", "rabbit", "station", "tiger", "village"),
    *("weather", "stone", "lamp", "nose", "yard", "bright", "ghost", "cloud"),
)
"""Words that are no keywords and that training never heard: half of the test's unknown ones."""

SENTENCES = (
    "The quick brown fox jumps over the lazy dog and runs into the forest before the morning comes",
    "Please send the report about last week to everybody who was in the meeting with the director",
    "We walked along the river until the houses became small and the road turned towards the hills",
    "Nobody remembers when the old bridge was built, but every summer the children swim under it",
)
"""What babble says."""
