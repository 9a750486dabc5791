"""Titles of the colour world: words of the item's topic among words that fit any topic.

All words come from the short lists below, in several languages and scripts. Some words belong to
two topics, and a few titles have no other hint than such a word.
"""

from __future__ import annotations

import numpy as np

from recbole_morec.sample.world import TOPICS

TOPIC_WORDS = {
    "music": "song guitar melody piano concert drums choir singer rhythm violin acoustic "
    "canción musique Lied музыка гитара 音乐 钢琴 歌 ギター 노래 μουσική",
    "cooking": "recipe soup noodles baking bread kitchen dinner sauce cheese dumplings spicy "
    "cocina dîner Küche рецепт суп 美食 面条 料理 パン 요리 κουζίνα",
    "travel": "journey train island hotel passport mountains harbour airport road-trip city "
    "viaje voyage Reise поездка остров 旅行 火车 島 駅 여행 ταξίδι",
    "games": "gameplay boss quest pixel console speedrun multiplayer dungeon chess puzzle level "
    "juego partie Spiel игра шахматы 游戏 关卡 対戦 ゲーム 게임 παιχνίδι",
    "animals": "kitten puppy parrot horse owl hedgehog penguin whale zoo feathers paws "
    "gatito chien Katze котёнок лошадь 小猫 熊猫 犬 ペンギン 고양이 άλογο",
    "sport": "football marathon goal tennis swimming coach stadium sprint league athlete training "
    "fútbol équipe Tor футбол тренер 足球 比赛 試合 テニス 축구 αγώνας",
    "science": "physics telescope planet atoms experiment laboratory gravity fossil robot equation "
    "neurons ciencia étoile Versuch физика планета 科学 实验 宇宙 ロボット 과학 πλανήτης",
    "cars": "engine turbo sedan garage tyres racing roadster gearbox diesel exhaust mechanic "
    "coche voiture Motor машина двигатель 汽车 引擎 車 エンジン 자동차 αυτοκίνητο",
    "garden": "roses seeds compost tomatoes greenhouse orchard lawn bonsai tulips pruning soil "
    "jardín fleurs Garten цветы рассада 花园 种子 庭 バラ 정원 κήπος",
}

# Words of two topics: they say something, but not which of the two.
SHARED_WORDS = {
    "bass": ("music", "animals"),
    "pitch": ("music", "sport"),
    "jam": ("music", "cooking"),
    "herbs": ("cooking", "garden"),
    "safari": ("travel", "animals"),
    "race": ("sport", "cars"),
    "match": ("games", "sport"),
    "lab": ("science", "animals"),
    "jaguar": ("animals", "cars"),
    "spring": ("garden", "travel"),
    "rocket": ("science", "garden"),
    "board": ("games", "sport"),
    "fuel": ("cars", "cooking"),
    "record": ("music", "sport"),
}

_PLAIN = (
    "the my best of a new how to why this for you with and first day top never before really "
    "amazing little big one last night secret story part full daily weekend slow quick easy "
    "honest simple favourite real world inside behind old two three minutes hours again live "
    "try let's what nobody tells everyone should today year diary ideas moments review guide"
)
PLAIN_WORDS = _PLAIN.split()

ENDINGS = ("!", "!!", "?", "…", " (part 2)", " #12", " #3", " | vlog", " - 2022", " [HD]", ' "wow"')


def make_title(rng: np.random.Generator, topic: int) -> str:
    """Draw a title of one to about ten words for an item of `TOPICS[topic]`."""
    name = TOPICS[topic]
    shared = [word for word, topics in SHARED_WORDS.items() if name in topics]
    if rng.random() < 0.04:
        hints = [shared[rng.integers(len(shared))]]
    else:
        own = TOPIC_WORDS[name].split()
        hints = [own[at] for at in rng.permutation(len(own))[: rng.integers(1, 4)]]
        if rng.random() < 0.15:
            hints.append(shared[rng.integers(len(shared))])
    count = int(rng.integers(0, 7))
    plain = [PLAIN_WORDS[at] for at in rng.integers(len(PLAIN_WORDS), size=count)]
    words = hints + plain
    title = " ".join(words[at] for at in rng.permutation(len(words)))
    style = rng.random()
    if style < 0.5:
        title = title[0].upper() + title[1:]
    elif style < 0.6:
        title = title.upper()
    if rng.random() < 0.25:
        title += ENDINGS[rng.integers(len(ENDINGS))]
    return title
