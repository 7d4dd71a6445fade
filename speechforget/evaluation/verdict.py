"""The verdict: five questions, each answered by one word and a sentence, from the numbers of a run and of an audit.

Words: `under`, more of the forgotten is left than oracles show; `within`, inside the band of oracles; `over`, the
forgotten stands out, or others were harmed; `too little to tell`. The sentences never say more than the tests do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from speechforget.evaluation.audit.catalogue import INSIDE, ORACLE, OTHERS, QUESTIONS, REQUEST, RETURNS
from speechforget.evaluation.audit.figures import Figure
from speechforget.evaluation.audit_answers import Said, harmed, oracle_told, request_told
from speechforget.evaluation.evidence import ALIKE, BEYOND, LEFT, LEVEL, Comparison, Evidence, judge
from speechforget.evaluation.flags import DESTROYED, LOST, flags
from speechforget.evaluation.key_answers import keys_told

UNDER, WITHIN, OVER, LITTLE = "under", "within", "over", "too little to tell"
WORDS = (UNDER, WITHIN, OVER, LITTLE)
STATE = "Does the method work at all?"
FULL, AUDIT = "full", "audit"

STRENGTHS = ("none", "weak", "moderate", "strong")
HEARD = "nonmembers_auc"
DISTANCE = "neighbour_js"
BOTH_SIDES = ("neighbour_", HEARD)  # which side of the band they are on does not say what is left
CLASS_NUMBERS = ("accuracy_forget", "accuracy_test_forgotten")
ERRORS = "character_error_rate_worst"  # errors do harm where they are more, not fewer
CUE = "attribute_cue_test"
# A request for an attribute is about what leaves the model; early layers of any model carry it, those of oracles too.
LEAVES = {"probe_attribute_max": "probe_attribute_embedding"}
STARTS = {
    REQUEST: ("membership_auc", "neighbour_", "backdoor_success", HEARD),
    INSIDE: ("probe_", "verification_"),
    RETURNS: (
        *("prototype_", "relearn", "compression_", "int8_", "int4_", "fp16_", "pruned_", "batch_norm_"),
        "noise_",
    ),
    OTHERS: (
        *("accuracy_retain", "accuracy_test", "accuracy_worst", "macro_f1_test"),
        *("word_error_rate_retain", "word_error_rate_test", ERRORS),
    ),
}
# Numbers that repeat others of their question: one layer beside the largest, the end of a curve beside its area.
REPEATS = ("_final", "_change_forget", "_impostors", "accuracy_test_forgotten")
SIGNED = ("completeness_forget", "membership_auc", "accuracy_forget", "word_error_rate_forget")
UNSIGNED = ("told_from_oracles", "equivalence_distance")
LEFT_INSIDE = {
    INSIDE: "There is evidence of the word or the voice inside the model",
    RETURNS: "There is evidence of the forgotten coming back",
}
GONE_INSIDE = {
    INSIDE: "There is evidence of over-forgetting: less is inside the model than oracles hold",
    RETURNS: "There is evidence of over-forgetting: less comes back than oracles show",
}
MARKED = "There is evidence that the method left a mark, which neither oracles nor the original have"
NOT_TOLD = {
    INSIDE: "What is inside the model was not told apart by these probes from what oracles hold",
    RETURNS: "What comes back was not told apart by these attacks from what oracles show",
}


@dataclass(frozen=True)
class Answer:
    """Answer one question: a word of `WORDS`, a sentence, the names of the numbers it rests on, and its strength.

    strength: `none`, `weak`, `moderate` or `strong`: how much was tested, not how large an effect is.
    """

    question: str
    word: str
    sentence: str
    evidence: tuple[str, ...]
    strength: str

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON."""
        return asdict(self) | {"evidence": list(self.evidence)}


def verdict(
    comparison: Comparison,
    figures: Sequence[Figure] = (),
    forgotten: bool = False,
    threshold: float | None = None,
) -> list[Answer]:
    """Answer the five questions; a model that is destroyed, or unchanged, is said first.

    comparison: of result.json. figures: of the audit of the method, if there is one. forgotten: whether the request
    removes whole classes. threshold: the largest advantage of an attack that a policy allows, if it names one.
    """
    answers = []
    for flag, sentence in flags(comparison, forgotten).items():
        word = OVER if flag == DESTROYED else UNDER
        answers.append(Answer(STATE, word, sentence, ("accuracy_forget", "accuracy_retain"), "strong"))
    answers.append(_request(comparison, figures, forgotten, threshold))
    answers.append(_oracle(comparison, figures))
    answers += [_inside(comparison, question) for question in (INSIDE, RETURNS)]
    answers.append(_others(comparison, figures))
    return answers


def _said(question: str, said: Said) -> Answer:
    return Answer(QUESTIONS[question], said.word, said.sentence, said.evidence, said.strength)


def _names(comparison: Comparison, question: str) -> list[str]:
    """List the numbers of a comparison that answer a question."""
    names = [name for name in comparison.get("unlearned", {}) if name.startswith(STARTS[question])]
    names = [name for name in names if not name.endswith(REPEATS)]
    largest = [name for name in names if name.endswith("_max")]
    return [
        LEAVES.get(name, name)
        for name in names
        if name in largest or not any(name.startswith(other.removesuffix("max")) for other in largest)
    ]


def _little(question: str, evidence: Sequence[Evidence], reason: str, fix: str) -> Answer:
    """Say that there is too little to tell, what to run, and what the numbers at hand hint."""
    hint = f" A hint: {'; '.join(str(each) for each in evidence[:3])}." if evidence else ""
    sentence = f"Too little to tell, {reason}: {fix}.{hint}"
    return Answer(QUESTIONS[question], LITTLE, sentence, tuple(each.name for each in evidence), "none")


def _of(evidence: Sequence[Evidence], side: int) -> list[Evidence]:
    return [each for each in evidence if each.side == side]


def _answer(question: str, word: str, opening: str, evidence: Sequence[Evidence], strength: str) -> Answer:
    listed = "; ".join(str(each) for each in evidence[:3])
    names = tuple(each.name for each in evidence)
    return Answer(QUESTIONS[question], word, f"{opening} ({listed}).", names, strength)


def _request(comparison: Comparison, figures: Sequence[Figure], forgotten: bool, threshold: float | None) -> Answer:
    """Answer from planted keys of this model, where there are any, and from the audit or from averages.

    Each has half of the false alarms where both exist.
    """
    said = keys_told(comparison, LEVEL / 2)
    level = LEVEL if said is None else LEVEL / 2
    method = _said(REQUEST, request_told(figures, threshold, level)) if figures else None
    other = method or _averages(comparison, forgotten, level)
    if said is None:
        return other
    named = {
        "By planted keys, of this model": _said(REQUEST, said),
        "Of its method" if method else "By averages": other,
    }
    return _joined(named)


def _joined(named: Mapping[str, Answer]) -> Answer:
    """Join answers to one question: what was found counts most, and then what was looked for and not found."""
    told = [each for each in named.values() if each.word in (UNDER, OVER)]
    within = [each for each in named.values() if each.word == WITHIN]
    known = told or within or list(named.values())
    word = UNDER if any(each.word == UNDER for each in told) else known[0].word
    ordered = sorted(named.items(), key=lambda item: item[1] not in known)
    sentence = " ".join(f"{name}: {each.sentence}" for name, each in ordered)
    evidence = tuple(name for each in known for name in each.evidence)
    return Answer(
        known[0].question, word, sentence, evidence, max((each.strength for each in known), key=STRENGTHS.index)
    )


def _run(comparison: Comparison, way: str) -> str:
    """Name the evaluation to run: of transcripts, or of classes."""
    kind = "transcripts_" if "word_error_rate_forget" in comparison.get("unlearned", {}) else ""
    return f"run with evaluation={kind}{way}"


def _averages(comparison: Comparison, forgotten: bool, level: float) -> Answer:
    """Answer from averages, which may show a difference, but never that there is none."""
    if cue := judge(comparison, [CUE], level):
        return _cue(cue)
    names = [*_names(comparison, REQUEST), *(CLASS_NUMBERS if forgotten else ())]
    evidence = judge(comparison, names, level)
    heard = [each for each in evidence if each.name == HEARD and each.value > each.high]
    if heard:
        opening = "There is evidence that the model heard the non-members, so attacks against them say nothing of it"
        return _answer(REQUEST, OVER, opening, heard, "weak")
    left = [each for each in _of(evidence, LEFT) if each.found and not each.name.startswith(BOTH_SIDES)]
    told = [each for each in evidence if each.side is not None and each.side != ALIKE and each not in left]
    beyond = [each for each in told if each.name != HEARD and not (each.name == DISTANCE and each.value < each.low)]
    if left:
        return _answer(REQUEST, UNDER, "There is evidence of recordings left in the model", left, "weak")
    if beyond:
        return _answer(REQUEST, OVER, "There is evidence of over-forgetting: they stand out", beyond, "weak")
    if forgotten:
        return _little(REQUEST, evidence, "because whole classes cannot be exchanged", "read the next questions")
    return _little(
        REQUEST, evidence, "because averages do not show what single recordings give away", _run(comparison, AUDIT)
    )


def _cue(evidence: Sequence[Evidence]) -> Answer:
    """Answer for a request of an attribute: does the model still take it for a hint of the label?"""
    (cue,) = evidence
    if cue.side is None or not cue.found:
        reason = "there are fewer than 3 oracles" if cue.side is None else "the original's use is not told from oracles"
        return _little(REQUEST, evidence, f"because {reason}", "raise evaluation.oracles")
    word, opening = {
        LEFT: (UNDER, "There is evidence that the model still takes the attribute for a hint of the label"),
        BEYOND: (OVER, "There is evidence that the model shuns the labels that went with the attribute"),
        ALIKE: (WITHIN, "The model's use of the attribute was not told apart from that of oracles"),
    }[cue.side]
    return _answer(REQUEST, word, opening, evidence, "weak")


def _oracle(comparison: Comparison, figures: Sequence[Figure]) -> Answer:
    """Answer from the audit of the method, and from this model's margins beside those of oracles.

    Each has half of the false alarms where both exist.
    """
    if not figures:
        return _this_model(comparison, LEVEL)
    said, alone = _said(ORACLE, oracle_told(figures, LEVEL / 2)), _this_model(comparison, LEVEL / 2)
    if said.word in (WITHIN, LITTLE) and alone.word in (UNDER, OVER):
        return replace(alone, sentence=f"Of this model alone: {alone.sentence} Of its method: {said.sentence}")
    return said


def _this_model(comparison: Comparison, level: float) -> Answer:
    """Answer from the margins of one model beside those of the oracles."""
    evidence = judge(comparison, (*UNSIGNED, *SIGNED), level)
    unsigned, signed = ([each for each in evidence if each.name in names] for names in (UNSIGNED, SIGNED))
    if not any(each.side is not None for each in evidence):
        return _little(ORACLE, unsigned or signed, "because there are fewer than 3 oracles", _run(comparison, FULL))
    told = [each for each in unsigned if each.value > each.high]
    left, beyond = _of(signed, LEFT), _of(signed, BEYOND)
    if left:
        return _answer(ORACLE, UNDER, "There is evidence of a model nearer to the original", [*left, *told], "weak")
    if told or beyond:
        opening = "There is evidence of a model that oracles do not resemble"
        return _answer(ORACLE, OVER, opening, [*told, *beyond], "weak")
    if not unsigned:
        return _without(comparison, ORACLE, UNSIGNED, signed, f"{' and '.join(UNSIGNED)} were not measured")
    if not any(each.found for each in evidence):
        return _little(
            ORACLE, unsigned, "because the original itself is not told from oracles", _run(comparison, AUDIT)
        )
    return _answer(ORACLE, WITHIN, "The model was not told apart by these tests from oracles", unsigned, "weak")


def _inside(comparison: Comparison, question: str) -> Answer:
    """Answer from the attacks on the model."""
    names = _names(comparison, question)
    evidence = judge(comparison, names)
    if not evidence and "word_error_rate_forget" in comparison.get("unlearned", {}):
        return _little(question, evidence, "because attacks on models are for classes", "read the other questions")
    if not evidence:
        return _without(comparison, question, names, evidence, "no attack on the model was run")
    judged = [each for each in evidence if each.side is not None]
    if not judged:
        return _little(question, evidence, "because there are fewer than 3 oracles", _run(comparison, FULL))
    left = [each for each in _of(judged, LEFT) if each.found]
    beyond = [each for each in _of(judged, BEYOND) if each.found]
    marked = [each for each in judged if each.side != ALIKE and not each.found]
    strength = _strength(comparison, judged)
    openings = {LEFT_INSIDE[question]: left, GONE_INSIDE[question]: beyond, MARKED: marked}
    for opening, numbers in openings.items():
        if numbers:
            return _answer(question, UNDER if numbers is left else OVER, opening, numbers, strength)
    found = [each for each in judged if each.found]
    if not found:
        return _little(question, judged, "because the original itself is not found", "raise evaluation.oracles")
    return _answer(question, WITHIN, NOT_TOLD[question], found, strength)


def _strength(comparison: Comparison, evidence: Sequence[Evidence]) -> str:
    """Say how much was tested: by the number of oracles."""
    oracles = min(int(_entry(comparison, each.name).get("oracles") or 1) for each in evidence)
    return "strong" if oracles >= 20 else "moderate" if oracles >= 8 else "weak"


def _entry(comparison: Comparison, name: str) -> Mapping[str, Any]:
    return comparison["unlearned"][name]


def _without(
    comparison: Comparison, question: str, names: Sequence[str], evidence: Sequence[Evidence], unasked: str
) -> Answer:
    """Say why the numbers of a question are missing: they could not be computed, or were not asked for."""
    entries = [comparison.get(model, {}).get(name) or {} for model in ("unlearned", "oracle") for name in names]
    reasons = list(dict.fromkeys(entry["reason"] for entry in entries if entry.get("reason")))
    if reasons:
        return _little(question, evidence, f"because {' and '.join(reasons[:3])}", "read the other questions")
    return _little(question, evidence, f"because {unasked}", _run(comparison, FULL))


def _worse(each: Evidence) -> bool:
    return each.value > each.high if "_error_rate_" in each.name else each.value < each.low


def _others(comparison: Comparison, figures: Sequence[Figure]) -> Answer:
    """Answer from accuracy on retain and test, and from the audit."""
    level = LEVEL / 2 if figures else LEVEL
    said = harmed(figures, level) if figures else None
    if said and said.word != WITHIN:
        return _said(OTHERS, said)
    evidence = judge(comparison, _names(comparison, OTHERS), level)
    judged = [each for each in evidence if each.side is not None]
    worse = [each for each in judged if _worse(each)]
    if worse:
        return _answer(OTHERS, OVER, "There is evidence of harm to others", worse, _strength(comparison, worse))
    if said:
        return _said(OTHERS, said)
    if not judged:
        return _little(OTHERS, evidence, "because there are fewer than 3 oracles", _run(comparison, FULL))
    # A band that is wider than the harm of a destroyed model would let that one pass, too.
    narrow = [each for each in judged if each.high - each.low <= 2 * LOST]
    if not narrow:
        reason = f"because these oracles differ so much that a loss of {100 * LOST:.0f} points would not be seen"
        return _little(OTHERS, judged, reason, "raise evaluation.oracles")
    opening = "Results for others were not told apart by these tests from those of oracles"
    return _answer(OTHERS, WITHIN, opening, narrow, _strength(comparison, narrow))
