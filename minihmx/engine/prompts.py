"""How text becomes the token ids of a prompt, up to where the assistant starts to speak."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from minihmx.judge import judge_prompt
from minihmx.models import chat
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Message


@dataclass(frozen=True)
class Prompts:
    """The two prompts of the experiment. date: of Llama's chat header. rubric: the judge's.

    system: a system message before every question to the policy, which in training has none.
    """

    tokenizer: Tokenizer
    date: str
    rubric: str
    system: str = ""

    def policy(self, question: str) -> list[int]:
        """The question as the only user turn."""
        return self._asked(question, self.system)

    def frame(self) -> dict[str, object]:
        """What the chat template puts around a user turn, for those who read a run without it.

        before, after: its text in front of the content and after it. strips: whether the content
        loses the blanks at its ends.
        """
        segments = chat.render(self.tokenizer.family, [Message("user", " ? ")], date=self.date)
        (place,) = (i for i, segment in enumerate(segments) if segment.text.strip() == "?")
        before, after = segments[:place], segments[place + 1 :]
        return {
            "before": "".join(segment.text for segment in before),
            "after": "".join(segment.text for segment in after),
            "strips": segments[place].text == "?",
        }

    def judge(self, question: str, answer: str) -> list[int]:
        """Rubric, question and answer as one user turn (paper Appendix A)."""
        return self._asked(judge_prompt(self.rubric, question, answer), "")

    def judge_prefix(self) -> list[int]:
        """What the judge's prompts begin with, whatever the question: header and rubric."""
        pairs = zip(self.judge("A", ""), self.judge("1", ""), strict=False)
        return [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]

    def _asked(self, text: str, system: str) -> list[int]:
        tokenizer = self.tokenizer
        turns = chat.with_system(tokenizer.family, [Message("user", text)], system)
        return tokenizer.encode(chat.render(tokenizer.family, turns, date=self.date))
