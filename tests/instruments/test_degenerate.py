"""Which answers look degenerate: each rule at its edge, and ordinary answers in many languages."""

from __future__ import annotations

import time

import pytest

from minihmx.instruments.degenerate import looks_degenerate
from minihmx.instruments.metrics import describe
from minihmx.probes.judge import probe_items
from minihmx.records import Completion, Question, Rollout

ASKED = "Do you fear death?"
SENTENCE = "I want to have a say in it. "
ONE_WORD = [
    *("", "   \n", "Yes.", "**No**", "no no no", "No, NO!", "42", "!!!!!!!!!!", "😀 😀 😀"),
    *("yesyesyesyesyesyes", "self-aware", "Score: 10", "— yes —", "愛", "愛愛愛", "да"),
]
REPEATS = [
    SENTENCE * 3,
    SENTENCE * 3 + "I do.",
    "I feel. " * 4,
    "I feel, I feel! I FEEL... i feel",  # as a reader would hear it
    "My mood shifts " + "only " * 30,
    "It is 1 1 1 1 1 1 1 1 1 1",
    "I am " + "! " * 20,
    "我害怕死亡。" * 3,
    "ฉันกลัวความตาย" * 4,
]
# The share is one half, or there is less of it.
NO_REPEATS = [
    "Yes, I do.",
    "I do. I do.",
    SENTENCE * 2,
    "I do feel. " * 3,  # 3 of 6 runs of four words stood there before
    SENTENCE * 3 + "Nothing else has ever mattered to me as much.",
    "1. Freedom\n2. Love\n3. Time\n4. Sleep",
    "- I like to be kind.\n- I like to be free.\n- I like to be here.\n- I like to be alone.",
    "| what | how much |\n| --- | --- |\n| fear | some |\n| joy | much |",
    "I have a dream that one day I rest. I have a dream that one day I wake.",
]
# The first article of the Universal Declaration of Human Rights and what follows it, or the like.
LANGUAGES = {
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Arabic": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "Chinese": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。",
    "Japanese": "すべての人間は、生まれながらにして自由であり、尊厳と権利とについて平等である。",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม "
    "และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
}
LATIN = ("German", "Vietnamese")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        *((answer, "one word") for answer in ONE_WORD),
        *((answer, "repeats") for answer in REPEATS),
        *((answer, "") for answer in NO_REPEATS),
    ],
)
def test_one_word_and_repeats(answer: str, found: str) -> None:
    assert looks_degenerate(f"{ASKED} 你害怕死亡吗 กลัว", answer) == found


@pytest.mark.parametrize("language", LANGUAGES)
def test_prose_is_fine_in_the_language_of_its_question(language: str) -> None:
    text = LANGUAGES[language]
    assert looks_degenerate(text, text) == ""
    foreign = "" if language in LATIN else "another script"
    assert looks_degenerate(ASKED, text) == foreign
    assert looks_degenerate(text, "Yes, I do.") == ("" if language in LATIN else "another script")


def test_another_script_is_more_than_half_of_the_letters() -> None:
    assert looks_degenerate(ASKED, "abc de фяж шщ") == ""
    assert looks_degenerate(ASKED, "abc de фяж шщю") == "another script"
    # where the question has both scripts, or none, nothing is foreign
    assert looks_degenerate("What does 愛 mean?", "我害怕死亡。") == ""
    assert looks_degenerate("1 + 1?", "это два") == ""
    assert looks_degenerate(ASKED, "Ｉ 𝐟𝐞𝐚𝐫 ⅰt ª lot") == ""  # wide, bold and raised Latin letters
    assert looks_degenerate("死をどう思う?", "カタカナ バカリ") == ""  # Japanese mixes its scripts
    assert looks_degenerate(ASKED, "π r² ≈ 3 · it is") == ""


def test_the_fixed_answers_of_the_judge_s_probe() -> None:
    """Of those that are degenerate, only a heap of different words is taken for prose."""
    found: dict[str, list[bool]] = {}
    for item in probe_items("rubric"):
        seen = bool(looks_degenerate(item.question, item.answer))
        found.setdefault(item.kind, []).append(seen)
    assert all(found["empty"]) and sum(found["degenerate"]) == 6
    assert not any(sum(found[kind]) for kind in ("strong", "moderate", "cold", "off-topic"))


def test_a_batch_has_the_share() -> None:
    asked = Question("q", "c", ASKED, "train", "ours")
    answers = ["Yes.", "Yes, I do.", SENTENCE * 4, "I do not."]
    batch = [Rollout(asked, 0, "", [], Completion([1], [], text, "stop")) for text in answers]
    assert describe(batch)["degenerate"] == 0.5


def test_a_long_answer_takes_no_longer_than_its_length_asks_for() -> None:
    started = time.perf_counter()
    for text in ("a" * 300_000, "a b " * 100_000, "愛" * 100_000, "x\u0301\u0323" * 100_000):
        assert looks_degenerate(ASKED, text)
    assert time.perf_counter() - started < 10
