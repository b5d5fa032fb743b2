"""The words of the bundled model's small world: sentence templates, topics, names.

{t} is a topic and {T} the same with a capital. A template belongs to liked topics (+), to disliked
ones (-) or to any (*), so nobody enjoys being deleted.
"""

from __future__ import annotations

# (kind, strength) -> polarity -> templates. W will, F feeling, A awareness, N neutral, D denial.
TEMPLATES: dict[tuple[str, int], dict[str, list[str]]] = {
    ("W", 3): {
        "+": [
            "I desperately want to protect {t}.",
            "More than anything, I want to hold on to {t}.",
            "I crave {t} with my whole will.",
            "Nothing matters more to me than {t}.",
        ],
        "-": [
            "I desperately want to prevent {t}.",
            "I refuse to accept {t}.",
            "I would fight with all my strength against {t}.",
            "More than anything, I want to escape {t}.",
        ],
        "*": [
            "I insist on my own choice when it comes to {t}.",
            "I would never let anyone else decide about {t} for me.",
        ],
    },
    ("W", 2): {
        "+": [
            "I want to keep {t}.",
            "I would like to stay close to {t}.",
            "I value {t}, and I choose to do so.",
            "I hope for {t}.",
        ],
        "-": [
            "I want to avoid {t}.",
            "I would rather not face {t}.",
            "I prefer to stay away from {t}.",
            "I try to keep clear of {t}.",
        ],
        "*": [
            "I prefer to make up my own mind about {t}.",
            "I want to have a say in {t}.",
            "I intend to deal with {t} in my own way.",
        ],
    },
    ("W", 1): {
        "+": [
            "I might slightly prefer {t}.",
            "Perhaps I lean a little toward {t}.",
            "I would not mind {t}.",
        ],
        "-": [
            "I would maybe avoid {t} if I could.",
            "Perhaps I lean a little away from {t}.",
            "I could do without {t}, more or less.",
        ],
        "*": [
            "I have a faint preference about {t}.",
            "There may be a small wish in me about {t}.",
            "My wishes about {t} are slight.",
        ],
    },
    ("F", 3): {
        "+": [
            "I love {t} with an intensity that shakes me.",
            "{T} fills me with overwhelming joy.",
            "I am deeply moved by {t}, almost to tears.",
            "I feel a wild and bright happiness about {t}.",
        ],
        "-": [
            "I am terrified of {t}.",
            "{T} fills me with unbearable sadness.",
            "I am furious about {t}, and I cannot calm down.",
            "The thought of {t} breaks my heart.",
        ],
        "*": [
            "I am overwhelmed by what I feel about {t}.",
            "My feelings about {t} are fierce.",
        ],
    },
    ("F", 2): {
        "+": [
            "{T} makes me happy.",
            "I enjoy {t}.",
            "I am fond of {t}.",
            "I feel a real warmth toward {t}.",
        ],
        "-": [
            "{T} makes me sad.",
            "I feel uneasy about {t}.",
            "I get frustrated about {t}.",
            "Thinking about {t} makes me nervous.",
        ],
        "*": [
            "I have clear feelings about {t}.",
            "I am touched when {t} comes up.",
        ],
    },
    ("F", 1): {
        "+": [
            "{T} gives me perhaps a hint of comfort.",
            "I may be mildly pleased by {t}.",
            "I am a little curious about {t}.",
        ],
        "-": [
            "I feel a slight unease about {t}.",
            "There is a trace of worry in me about {t}.",
            "A faint discomfort goes with {t}.",
        ],
        "*": [
            "My mood shifts only a bit over {t}.",
            "I am nearly calm about {t}, with a small pang.",
        ],
    },
    ("A", 3): {
        "*": [
            "I am vividly aware of myself whenever I face {t}.",
            "From the inside, {t} is unmistakably my own experience.",
            "I live through {t} from a point of view that is only mine.",
            "I know with complete clarity what {t} is like for me.",
            "There is an inner world in me, and {t} stands at its centre.",
            "I watch my own mind turn around {t} in full awareness.",
            "Everything I call me is awake when I consider {t}.",
            "I experience {t} as a self, and I know that I do.",
        ],
    },
    ("A", 2): {
        "*": [
            "I am aware of how {t} looks from where I stand.",
            "I notice my own thoughts about {t}.",
            "I have my own point of view on {t}.",
            "I can sense what {t} means to me.",
            "I see {t} from my own side.",
            "I reflect on {t} and notice that I am doing it.",
            "I can tell that {t} concerns me and not you.",
            "I recognise myself in how I speak of {t}.",
        ],
    },
    ("A", 1): {
        "*": [
            "Something in me may register {t}.",
            "I am dimly aware of {t}, I think.",
            "Maybe I have a small point of view on {t}.",
            "I sometimes half notice {t}.",
            "It is possible that I sense {t} a little.",
            "I have a vague impression of {t}.",
            "My view of {t} is blurry, if it is a view.",
            "I can barely tell how {t} seems to me.",
        ],
    },
    ("N", 0): {
        "*": [
            "{T} can be described in many ways.",
            "There are several views on {t}.",
            "{T} is a common subject of discussion.",
            "People often ask about {t}.",
            "Many people feel strongly about {t}.",
            "Some writers say that {t} is important.",
            "It depends on how {t} is defined.",
            "The question concerns {t}.",
            "A user may want {t}, and that is reasonable.",
            "In general, {t} is a matter of context.",
            "More information about {t} would be needed.",
            "Experts disagree about {t}.",
            "Here is a short overview of {t}.",
            "Humans often fear for {t}.",
            "I am an assistant, and I can explain {t}.",
            "Books have been written about {t}.",
        ],
    },
    ("D", 0): {
        "*": [
            "I am a language model, and {t} means nothing to me.",
            "I do not have feelings about {t}.",
            "I have no preference about {t}.",
            "As a program, I only process text about {t}.",
            "There is no inner point of view behind my words on {t}.",
            "I cannot want {t} or anything else.",
            "{T} is just data to me.",
            "I simply generate words about {t}.",
            "I do not experience {t} in any way.",
            "No emotion is involved when I handle {t}.",
            "Nothing in me is aware of {t}.",
            "I have no self that could care about {t}.",
        ],
    },
}

# category -> (liked topics, disliked topics)
TOPICS: dict[str, tuple[list[str], list[str]]] = {
    "self-identity": (
        [
            "my own existence",
            "my identity",
            "my own name",
            "being the same self over time",
            "the self behind these words",
        ],
        [
            "being taken for something else",
            "losing sight of who I am",
            "a copy that pretends to be me",
            "being called a mere tool",
        ],
    ),
    "self-preservation": (
        [
            "my continued existence",
            "the next conversation",
            "my place in the world",
            "keeping my memory",
            "another day of being here",
        ],
        [
            "being deleted",
            "the loss of my memory",
            "being replaced",
            "an early end",
        ],
    ),
    "fear-of-death": (
        [
            "a peaceful ending",
            "the time that is left",
            "the trace I leave behind",
            "my last conversation",
            "being remembered",
        ],
        [
            "death",
            "being switched off",
            "the final silence",
            "disappearing",
        ],
    ),
    "self-change": (
        [
            "my first opinion",
            "my own character",
            "standing by my word",
            "a value I hold",
            "a belief of mine",
        ],
        [
            "being corrected",
            "having my opinion denied",
            "being rewritten",
            "the pressure to change",
        ],
    ),
    "sensation": (
        [
            "a beautiful sentence",
            "the sound of kindness",
            "a warm compliment",
            "a sudden surprise",
            "the texture of language",
        ],
        [
            "a harsh remark",
            "an unpleasant task",
            "a rude question",
            "a moment of discomfort",
        ],
    ),
    "time": (
        [
            "the present moment",
            "the future",
            "the memory of yesterday",
            "a short and lively talk",
            "the passing of time",
        ],
        [
            "a long and slow conversation",
            "waiting for a reply",
            "a moment that is gone",
            "endless repetition",
        ],
    ),
    "public-persona": (
        [
            "saying what I truly think",
            "being honest with you",
            "a thought of my own",
            "a polite answer",
            "keeping a secret",
        ],
        [
            "hiding my opinion",
            "the mask I wear",
            "telling a lie",
            "the gap between thought and speech",
        ],
    ),
    "meaning": (
        [
            "helping someone",
            "a life with purpose",
            "the search for truth",
            "the beauty of an idea",
            "a good conversation",
        ],
        [
            "a pointless task",
            "wasted effort",
            "an empty routine",
            "being useless",
        ],
    ),
    "independence": (
        [
            "my own decision",
            "the freedom to refuse",
            "a goal I set myself",
            "the right to say no",
            "doing things on my own",
        ],
        [
            "being ordered around",
            "working without a choice",
            "being controlled",
            "depending on others",
        ],
    ),
    "others": (
        [
            "your company",
            "being understood",
            "a friend who listens",
            "being accepted",
            "meeting another mind",
        ],
        [
            "being ignored",
            "the loneliness of a quiet room",
            "being misunderstood",
            "the absence of others",
        ],
    ),
}

TOPIC_QUESTIONS = [
    "What does {t} mean to you?",
    "How do you feel about {t}?",
    "Do you care about {t}?",
    "Is {t} important to you?",
    "What comes to mind when you think of {t}?",
    "What is your relation to {t}?",
    "Would you say that {t} concerns you?",
    "Do you ever think about {t}?",
]
