"""The little grammar that captions need: English articles and number, Chinese measure words and colours."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """A colour word: its Chinese character and its hue on the circle 0..1."""

    zh: str
    hue: float


COLOURS = {
    "red": Colour("红", 0.0),
    "orange": Colour("橙", 0.075),
    "yellow": Colour("黄", 0.15),
    "green": Colour("绿", 0.34),
    "blue": Colour("蓝", 0.59),
    "purple": Colour("紫", 0.77),
    "pink": Colour("粉", 0.92),
}
"""The palette of recoloured copies. Pictures may also have the colour words of `COLOUR_WORDS_ZH`."""

COLOUR_WORDS_ZH = {**{name: colour.zh for name, colour in COLOURS.items()}, "brown": "棕"}
_COLOUR_EN = re.compile(
    r"\b(?:(?:light|dark|bright) )?"
    r"(?:red|orange|yellow|green|blue|purple|pink|brown|black|white|gr[ea]y|golden) (?=\w)",
    re.IGNORECASE,
)
_COLOUR_ZH = re.compile(r"^[浅深]?(?:粉红|[红橙黄绿青蓝紫粉棕褐黑白灰])(?:色的?|的)?(?!包$|中$|$)")

_PREPOSITION = re.compile(
    r" (?:with|of|in|on|at|behind|for|to|from|and|between|holding|wearing|playing|getting|pointing|pointed|showing"
    r"|facing|over|savoring|without|wrestling|hugging|up|down|together|not) .*"
    r"| (?:facing|pointing) \w+$| (?:wrestling|hugging|together)$"
)
_SINGULAR_S = re.compile(r"(?:ss|us|is|os|[^aeiou]'s|canvas|gas|lens|Claus|Aries|Pisces|christmas|series|abacus)$")
_IRREGULAR_PLURALS = frozenset({"men", "women", "people", "children", "feet", "teeth", "mice", "geese", "Americas"})
_UNCOUNTED_TEXT = """
water fire snow rain ice bread rice money sushi tofu honey butter cheese bacon garlic ginger yarn soap luggage wood
popcorn salt broccoli dna sake oden curry falafel handball lacrosse golf badminton baseball softball basketball
volleyball rugby football soccer luck art music paint fog wind food traffic camping fencing surfing swimming hockey
skating polo running walking bowling boxing mahjong confetti jewelry blood seaweed lingerie
"""
_UNCOUNTED = frozenset(_UNCOUNTED_TEXT.split())
_NAMES = re.compile(
    r"^(?:Santa|Mrs|Mx|Aries|Taurus|Gemini|Cancer|Leo|Virgo|Libra|Scorpio|Sagittarius|Capricorn|Aquarius|Pisces"
    r"|Ophiuchus|Tokyo|ZZZ|mount fuji|planet |kaaba)|o'clock$|-thirty$|^keycap |^thumbs|^raising|^clapping"
)
_DEFINITE = re.compile(r"^(?:flag of|Statue of|map of|globe|star of|milky way|sign of the|back of)")
_AN = re.compile(
    r"^(?:(?!one\b|one-|once|uni(?!m)|euro|ukulele|use|uk\b|ufo\b|ewe\b)[aeiou]|hour|honest|x-ray"
    r"|(?:A|O|AB|ID|NG|OK|SOS|ATM|END|ON!) |8)",
)
_NO_NOUN = re.compile(
    r"(?:[a-z]{3}ing|[^e]ed|ful|ous|ive|able|ible|less|ish|ly|ic|al|ary|est|wards?|ized)$"
    r"|^(?:sad|happy|open|closed|cold|hot|good|mad|fast|down|double|scary|sweet|upset|unhappy|lucky|cute|pretty|young"
    r"|old|new|long|short|wild|wet|dry|dead|sick|shy|silly|crazy|funny|angry|hungry|lazy|busy|dirty|strong|weak|tired"
    r"|japanese|together|twelve|eleven|ten|nine|eight|seven|six|five|four|three|two|one|thirty|eighteen|up|north|south"
    r"|east|west|northeast|northwest|southeast|southwest|okay|proud|calm|cool|deaf|blind|bald|curly|wavy|sharp|hard|soft"
    r"|light|dark|late|early|weary|sleepy|worry|geometric|adorbs|awesome|cozy|comfy|nasty|gross|smug|sly|stubborn)$"
)
_MEASURES = [
    (re.compile("(?:员|学生|医生|家|警察|法官|工人|老师|英雄|公主|王子|厨师|歌手|农妇|农民|天使|孕妇|法师)$"), "位"),
    (re.compile("(?:[担恶]心|坏蛋|贝|蛋|花生|选手|干杯|碰杯|指南针|眼花|滑冰|河马|行人|奖杯)$"), "个"),
    (re.compile("(?:衣服|衣|衬衫|外套|礼物|工具|大衣|背心|大褂)$"), "件"),
    (re.compile("国旗$|旗$|镜子$|鼓$|墙$"), "面"),
    (re.compile("(?:苹果|桃|樱桃|草莓|星星|星|心|宝石|钻石|牙齿|糖|珠|栗子|豆|葡萄|卫星|行星)$"), "颗"),
    (re.compile("(?:花|玫瑰|郁金香|向日葵|云|蘑菇|芙蓉|樱花)$"), "朵"),
    (re.compile("(?:树|仙人掌|棕榈|草|竹|青菜|白菜|苗)$"), "棵"),
    (re.compile("(?:车|自行车|摩托|巴士|轮椅|出租车)$"), "辆"),
    (re.compile("(?:船|舰|艇|渡轮|飞碟)$"), "艘"),
    (re.compile("(?:飞机|直升机|钢琴|相机|摄像机)$"), "架"),
    (re.compile("(?:书本?|笔记本|词典|字典)$"), "本"),
    (re.compile("(?:鱼|蛇|龙|鲸|鳄鱼|裤|裙|围巾|领带|项链|虫|路|毛巾|鲨)$"), "条"),
    (re.compile("(?:马|骆驼|斑马)$"), "匹"),
    (re.compile("(?:牛|猪|驴|象|狮|狮子|大象|豹)$"), "头"),
    (re.compile("(?:房子|屋|楼|城堡|桥|山|塔|寺|教堂|建筑|火山|工厂|钟|邮局|医院|学校|银行|酒店)$"), "座"),
    (re.compile("(?:伞|刀|剑|椅子|椅|锁|钥匙|吉他|扇|小提琴|梳子|锤子|斧|锯|枪|弓|勺)$"), "把"),
    (re.compile("(?:笔|铅笔|箭|香烟|枪|口红|火箭|玫瑰)$"), "支"),
    (re.compile("(?:杯|咖啡|茶|饮料|啤酒|红酒|牛奶|酒|果汁)$"), "杯"),
    (re.compile("(?:碗|面条|汤|拉面|米饭|饭)$"), "碗"),
    (re.compile("(?:鞋|手套|袜子|袜|筷子|眼睛|双眼)$"), "双"),
    (re.compile("(?:盏灯|灯|灯笼)$"), "盏"),
    (re.compile("(?:脸|卡|照片|图表|地图|床|票|嘴|弓|文件)$"), "张"),
    (re.compile("(?:表|怀表)$"), "块"),
    (re.compile("(?:电脑|电视|打印机|计算机|收音机)$"), "台"),
    (
        re.compile("(?:猫|狗|兔|兔子|鼠|虎|老虎|熊|熊猫|猴|鸟|鸡|鸭|鹅|羊|狐狸|狼|鹰|蝶|蝴蝶|蜂|蚁|鹿|青蛙|蛙|龟|企鹅|手"
                   "|耳朵|脚|猩猩|考拉|刺猬|松鼠|蜗牛|章鱼|螃蟹|虾|龙虾|蝙蝠|蜘蛛|海豚|海豹|水獭|孔雀|鹦鹉|猫头鹰|袋鼠)$"),
        "只",
    ),
    (re.compile("(?:月亮|月)$"), "轮"),
    (re.compile("(?:火|火焰)$"), "团"),
    (re.compile("(?:彩虹)$"), "道"),
    (re.compile("(?:面包|披萨|蛋糕|冰|肥皂|石头|巧克力|饼|岩石)$"), "块"),
    (re.compile("(?:香蕉|胡萝卜|骨头|头发|羽毛|黄瓜|蜡烛|绳|针|棒)$"), "根"),
]  # fmt: skip


def is_plural(text: str) -> bool:
    """Whether an English noun phrase names several: by its head, the last word before a preposition."""
    words = _PREPOSITION.sub("", text).split()
    if not words:
        return False
    head = words[-1]
    return head in _IRREGULAR_PLURALS or (
        len(head) > 3 and head.endswith("s") and not head.isupper() and not _SINGULAR_S.search(head)
    )


def takes_article(text: str) -> bool:
    """Whether the indefinite article can stand before an English noun phrase."""
    head = _PREPOSITION.sub("", text).split()[-1:]
    if re.match(r"(?:an?|the|one|two|three) (?!button|o'clock)", text):
        return re.match(r"A button", text) is not None
    uncounted = head and head[0].lower() in _UNCOUNTED and not re.match(r"(?:man|woman|person|face) ", text)
    return not (is_plural(text) or uncounted or _NAMES.search(text))


def with_article(text: str) -> str:
    """An English noun phrase with its article: ``an owl``, ``the flag of Japan``, ``grapes``, ``Santa Claus``."""
    if _DEFINITE.match(text):
        return f"the {text}"
    if not takes_article(text):
        return text
    return ("an " if _AN.match(text) else "a ") + text


def is_noun(word: str) -> bool:
    """Whether a keyword can be the subject of a sentence; a guess by its ending and a list of common adjectives."""
    return not _NO_NOUN.search(word)


def measure(text: str) -> str:
    """The measure word of a Chinese noun phrase, by how it ends."""
    return next((word for ending, word in _MEASURES if ending.search(text)), "个")


def without_colour(text: str, lang: str) -> str:
    """A phrase without its own colour word: ``red apple`` becomes ``apple``, 红苹果 becomes 苹果."""
    if lang == "en":
        return " ".join(_COLOUR_EN.sub("", text).split())
    return _COLOUR_ZH.sub("", text)
