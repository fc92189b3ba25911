"""Say which series is T1, T1ce, T2 or FLAIR: from the scanner's timing, from words in many languages, from the images."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.stats import rankdata, skew

from scan_session.errors import SessionError
from scan_session.grid import array_of
from scan_session.registration import register
from scan_session.series import MODALITIES, Series

NAMES = {"t1": "T1", "t1ce": "T1 with contrast agent", "t2": "T2", "flair": "FLAIR"}

WHOLE_MM = 115.0
"""A series that covers less along an axis does not show a whole brain; one that does is preferred, even if it is coarser."""
JOINED = r"(?:s|3d|ax|cor|sag|tra)?"
"""What some write before the weighting without a space, as in "3DT1" and Philips' "sT1W"."""
LEFT_OUT = {
    "a localiser": r"loc|locali[sz]er|scout|survey|topogram|3 ?plane|aahead\w*|ubersicht|reperage|localizador",
    "diffusion": r"\w*dwi|dti|diff(?!eren)\w*|trace\w*|[de]?adc|fa|colfa|tensor|ivim",
    "susceptibility": rf"{JOINED}t2w? ?(?:star\w*|\*\w*|ffe|gre)|swi\w*|swan|swip|minip|mip|venobold|hemo\w*|qsm|pha|phase",
    "perfusion": r"perf\w*|dsc|dce|p?c?asl|r?cb[fv]|mtt|ttp|tmax|ktrans",
    "angiography": r"(?:[23]d)?tof|mra|angio\w*|veno\w*|pca",
    "functional imaging": r"bold|fmri|resting",
    "a subtraction": r"sub(?! (?:mm|\d))|subtr\w*|differen\w*",
    "proton density": r"pd|pdw|proton\w*",
    "double inversion recovery": r"dir|double inversion",
    "a balanced gradient echo": r"ciss|fiesta\w*|trufi\w*|b ?ffe|fisp",
    "a calibration": r"calibration|asset cal\w*|shim\w*|b[01] ?map\w*|field ?map\w*",
    "a parameter map": r"(?:t[12]|r[12]|pd)?map(?:s|ping)?|mp2rage .*t1 images",
    "an inversion image of an MP2RAGE": r"mp2rage .*inv ?[12]",
}
"""What else a session holds, and how its descriptions say so."""
BESIDE = (r"(?:post|pre|after|before|nach|vor|apres|avant|dopo|prima|despues|antes|pos|in|to) "
          r"(?:perf\w*|dsc|dce|dwi|dti|adc|swi|asl)")  # fmt: skip
"""Words that say when a series was acquired, or to which it was registered, not what it is."""
HEAD = r"head|brain|skull|scha?e?del|kopf|cran|hirn|cere|tete|cabe[zc]a|testa|neuro|orbit"
ELSEWHERE = (
    r"neck|spine|cervi|lumb|sacr|plexus|chest|thora|heart|cardi|aort|breast|mamm|abdom|liver|pancrea|kidney|renal|bladder|"
    r"pelv|prostat|uterus|rectum|shoulder|elbow|wrist|knee|ankle|thigh|extrem|"
    r"wirbel|schulter|becken|brust|rachis|epaule|genou|columna|rodilla|hombro|colonna|ginocchio|coluna|joelho|позвон|椎|膝|"
    r"\b(?:hips?|hands?|arms?|legs?|foot|feet|knie|hals|[bhl]ws)\b"
)
"""Parts of the body in BodyPartExamined. A value with neither, such as UNKNOWN or one in another language, says nothing."""
MAPS = r"seg\w*|mask\w*|label\w*|fusion|lesion|roi|bet"
"""Words of NIfTI files that are no scan."""
WORDS = {
    "flair": rf"{JOINED}(t2)?w?flair\w*|t2f|fla|flr|tirm\w*|dark ?fluid|da ?fl",
    "t2": rf"{JOINED}t2\w*",
    "t1": rf"{JOINED}t1\w*|mp ?rage|bravo|i?r? ?f?spgr|tfe3d|vibe|mp2rage",
}
PLANES = {"ax", "axial", "tra", "trans", "transverse", "cor", "coronal", "sag", "sagittal", "obl", "2d", "3d"}
"""Words before the weighting that say how one series was acquired, not whose it is."""
AGENT = r"contrast\w*|kontrast\w*|contraste|km|gd|gado\w*|gad|mdc|inj\w*|контраст\w*"
WITH = (rf"\+ ?(?:c|ce|k|{AGENT})|c\+|(?:t1w?)?(?:c|ce|post\w*|{AGENT})|nach|apres|dopo|despues|pos|ку|"
        r".*造影.*|.*增强.*|.*增強.*|.*조영.*")  # fmt: skip
WITHOUT = (r"(?:pre|vor|avant|prima|antes)(?! (?:op|surg|chir|cirug)\w*)|t1pre|t1n|\w*nativ\w*|unenhanced|wo|w o|"
           r".*平扫.*|.*平掃.*|.*未增[强強].*|.*增[强強]前.*|.*비조영.*|.*조영 ?전.*|"
           r"(?:ohne|o|v|sans|s|sin|sem|senza|zonder|utan|uden|bez|without|before|non?|not|wo|w o|без|до) "
           rf"(?:iv )?(?:c|{AGENT})")  # fmt: skip
"""Whether a T1 has a contrast agent, in English, German, French, Italian, Spanish, Portuguese, Russian, Chinese and Korean;
without one also in Dutch, Swedish, Danish, Czech and Polish. The time before an operation says nothing of it."""
LATER = (r"(?:post|nach|apres|dopo|despues|pos) ?"
         r"(?:op|surg|chir|cirug|resec|biops|bestr|radi|rt|chemo|treat|therap|trauma|stroke)\w*")  # fmt: skip
"""The time after an operation or a treatment says nothing of a contrast agent."""
NOT_GIVEN = (r"no|none|not|nil|n|^na$|^0(?: 0)?(?: ?ml)?$|false|unknown|undefined|keine?s?|nicht|unbekannt|aucun|ninguno|"
             r"nessuno|without|ohne|sans|sin|sem|senza")  # fmt: skip
"""What stands in ContrastBolusAgent if there was none."""


def recognise(series: Sequence[Series]) -> list[Series]:
    """Give every series its modality or the reason why it is left out."""
    return [one if one.fault else _from_header(one) if one.is_dicom else _from_name(one) for one in series]


def one_session(series: Sequence[Series], folder: Path) -> bool:
    """Say whether NIfTI files below a folder are surely of one session by their names and folders.

    Two names or folders with at least three of the four each are two sessions, a `SessionError`. With two, one of them in
    both, they may be two sessions, or one sorted by plane or by contrast agent: False. A name that begins as another, such as
    "p7 brain" beside "p7", is of the same session.
    """
    known = [one for one in series if one.modality and not one.fault]
    parts = [one.files[0].relative_to(folder).parts[:-1] for one in known]
    depth = 0
    while len({part[: depth + 1] for part in parts}) == 1 and all(len(part) > depth for part in parts):
        depth += 1
    by_name, by_folder, sure = defaultdict(list), defaultdict(list), True
    for one, part in zip(known, parts, strict=True):
        by_name[_session_words(str(one.facts["Name"]))].append(one)
        by_folder[part[depth : depth + 1]].append(one)
    for groups in (by_folder, by_name):
        kinds = {name: {one.modality for one in files} for name, files in groups.items()}
        pairs = combinations(sorted(name for name in kinds if len(kinds[name]) > 1), 2)
        pairs = [(a, b) for a, b in pairs if kinds[a] & kinds[b] and b[: len(a)] != a]
        apart = sorted({name for pair in pairs if min(len(kinds[name]) for name in pair) > 2 for name in pair})
        sure &= not pairs
        if apart:
            first, second = (groups[name][0].files[0].relative_to(folder) for name in apart[:2])
            raise SessionError(
                f"the folder holds NIfTI files of {len(apart)} sessions, such as {first} and {second}",
                "give a folder with one of them, or name its files with --t1 --t1ce --t2 --flair",
            )
    return sure


def _session_words(name: str) -> tuple[str, ...]:
    """What a file's name says besides its weighting: the words before it, else those after it."""
    words = _plain(name).split()
    place = next((at for at, word in enumerate(words) if any(_says(word, pattern) for pattern in WORDS.values())), len(words))
    before, after = ([word for word in part if word not in PLANES] for part in (words[:place], words[place + 1 :]))
    return tuple(before or after)


def choose(series: Sequence[Series], overrides: Mapping[str, str | None]) -> tuple[dict[str, Series], list[Series], list[str]]:
    """Take one series for each modality: that of the user, else the finest of what was recognised.

    Returns what was taken, what was left out with its reason, and what has to be said aloud.
    """
    series = list(series)
    for modality, wanted in overrides.items():
        if wanted:
            series = _override(series, modality, str(wanted))
    taken: dict[str, Series] = {}
    left, notes = [], []
    for modality in MODALITIES:
        candidates = sorted((one for one in series if one.modality == modality and not one.fault), key=_rank)
        if not candidates:
            continue
        taken[modality] = candidates[0]
        computed = [other for other in candidates[1:] if _derived(other) and not _derived(candidates[0])]
        partial = [
            other for other in candidates[1:] if _partial(other) and not _partial(candidates[0]) and other not in computed
        ]
        for other in candidates[1:]:
            better = "was not computed from another" if other in computed else "is finer or first"
            better = "shows more of the head" if other in partial else better
            left.append(replace(other, modality=None, reason=f"is another {NAMES[modality]}; {candidates[0].label} {better}"))
        if candidates[1:]:
            finest = "the finest" + " that was not computed from another" * bool(computed)
            finest += " of those that show the whole head" * bool(partial)
            notes.append(f"{len(candidates)} series are {NAMES[modality]}; took {candidates[0].label}, {finest}")
    left += [one for one in series if one.fault or not one.modality]
    return taken, left, notes


def aligned(images: Sequence[sitk.Image], mask: sitk.Image) -> list[np.ndarray]:
    """Voxels of several images of one head, registered to the first, inside its brain."""
    first, *others = images
    moved = [first, *(sitk.Resample(one, first, register(first, one, mask).transform) for one in others)]
    inside = array_of(mask) > 0
    return [array_of(one)[inside] for one in moved]


def assign_by_contrast(voxels: Sequence[np.ndarray]) -> list[str]:
    """Say which of four images, of which nothing else is known, is T1, T1ce, T2 and FLAIR, from their `aligned` voxels.

    T1 and T1ce order the brain's voxels alike, and so, less so, do T2 and FLAIR. The pair with the longer bright tail is the
    second. Fluid is bright in T2 alone, so T2 goes against T1; the contrast agent gives T1ce the tail that T1 has not.
    Raises `SessionError` if no pairing stands out.
    """
    ranks = np.corrcoef([rankdata(one) for one in voxels])
    pairings = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    likest, second, _ = sorted(pairings, key=lambda pairing: -sum(ranks[pair] for pair in pairing))
    if sum(ranks[pair] for pair in likest) - sum(ranks[pair] for pair in second) < 0.1:
        raise SessionError("the contrast of the images does not tell which is which", "say so: --t1 --t1ce --t2 --flair")
    tails = [np.percentile(one, 97) / np.percentile(one, 50) for one in voxels]
    ones, twos = sorted(likest, key=lambda pair: max(tails[index] for index in pair))
    t2, flair = sorted(twos, key=lambda index: ranks[index, list(ones)].sum())
    enhanced = ones[which_enhances(*(voxels[index] for index in ones))]
    names = {t2: "t2", flair: "flair", enhanced: "t1ce"}
    return [names.get(index, "t1") for index in range(4)]


def which_enhances(first: np.ndarray, second: np.ndarray) -> int:
    """Say which of two T1 images of one head has the contrast agent, 0 or 1, from their `aligned` voxels."""
    low, middle = np.percentile([first, second], (5, 50), axis=1)
    before, after = ((one - low[index]) / (middle[index] - low[index] + 1e-6) for index, one in enumerate((first, second)))
    return int(skew(after - before) > 0)


def flat(text: str) -> str:
    """Lower case without accents."""
    signs = (sign for sign in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(sign))
    return unicodedata.normalize("NFKC", "".join(signs))


def _plain(text: str) -> str:
    """Lower case without accents, words apart: "T1_MPRAGE+Gd (après)" becomes "t1 mprage+gd apres"; "C-" is "without c"."""
    text = re.sub(r"(?<![^\W_])(ce?|gd|km)-(?![^\W_])", r"without \1", flat(text))
    return " ".join(re.sub(r"[^\w+*]|_", " ", text).split())


def _search(text: str, pattern: str) -> re.Match | None:
    """Find a pattern of whole words."""
    return re.search(rf"(?<![^\s+])(?:{pattern})(?![^\s+])", text)


def _says(text: str, pattern: str) -> bool:
    return _search(text, pattern) is not None


def _says_with(text: str) -> bool:
    """Whether a text says that there is a contrast agent: "post gd" does, "post op" does not."""
    return _says(re.sub(rf"\b(?:{LATER})", " ", text), WITH)


def is_keyword(word: str) -> bool:
    """Whether a word alone says what a series is, so that it must be read even if the patient is called so."""
    return any(_says(flat(word), pattern) for pattern in (*WORDS.values(), *LEFT_OUT.values(), WITH, WITHOUT))


def _strange(text: str) -> str | None:
    """What words say a series is that is none of the four."""
    text = re.sub(rf"\b{BESIDE}\b", " ", text)
    return next((kind for kind, pattern in LEFT_OUT.items() if _says(text, pattern)), None)


def _from_name(series: Series) -> Series:
    name = str(series.facts.get("Name", "")).lower()
    enhanced = re.search(r"(?:^|_)ce-(?!no)[a-z0-9]+_", name)  # BIDS: sub-01_ce-gadolinium_T1w
    # BIDS: the patient, no subtraction, and the image to which it was registered.
    text = _without_target(_plain(re.sub(r"^sub-[a-z0-9]+(?=_)|_(?:sub|space)-[a-z0-9]+(?=_|$)", "", name)))
    if _says(text, MAPS):
        return replace(series, fault="is a mask or a label map by its name")
    weighting = next((key for key, pattern in WORDS.items() if _says(text, pattern)), None)
    if weighting == "flair" and _says(text, rf"t1w?(?: (?:{'|'.join(PLANES)}|[tf]?se))* (?:{WORDS['flair']})"):
        weighting = "t1"  # an inversion that makes T1 stronger, as in "T1 FLAIR" and "t1_tirm_tra_dark-fluid"
    # What stands before the weighting may be the patient's name, but for "SUB_T1".
    place = _search(text, rf"(?:sub(?:tr\w*)? (?=\S*t1))?(?:{WORDS[weighting]})") if weighting else None
    strange = _strange(text[place.start() :] if place else " ".join(text.split()[-1:]))
    if strange:
        return replace(series, fault=f"is {strange} by its name")
    if weighting is None:
        return replace(series, reason="has a name that does not say what it is")
    before = text[: place.start()].split()  # may be the patient's name, but for "POST_SAG_T1"
    said = PLANES & set(before) and all(word in PLANES or word.isdigit() or _says(word, WITH) for word in before)
    tail = text if said else text[max(0, text.find("t1")) :]
    tail = re.sub(rf"\b(t1w?(?:c|ce|post|{AGENT})\b.*) native\b", r"\1", tail)  # t1ce_native.nii.gz: in its own grid
    if weighting == "t1" and (enhanced or _says_with(tail)) and not _says(tail, WITHOUT):
        weighting = "t1ce"
    return replace(series, modality=weighting, reason=f"{NAMES[weighting]} by the file's name")


def _without_target(text: str) -> str:
    """A name without the image to which it was registered: "t1 to t1ce" becomes "t1"."""
    place = _search(text, "|".join(WORDS.values()))
    target = r" (?:in|on|to|onto|reg\w*(?: to)?) (?:t1|t2|fla)\w*(?: space)?(?= |$)"
    return text[: place.end()] + re.sub(target, "", text[place.end() :]) if place else text


def says_without(series: Series) -> bool:
    """Whether a description or name says that a T1 has no contrast agent."""
    name = _plain(str(series.facts.get("Name", "")))
    return _says(_plain(str(series.facts.get("Description", ""))), WITHOUT) or _says(name[max(0, name.find("t1")) :], WITHOUT)


def _number(facts: Mapping[str, object], *keywords: str) -> float | None:
    for keyword in keywords:
        value = facts.get(keyword)
        value = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and len(value) else value
        if isinstance(value, (int, float)) and value > 0:
            return float(value)
    return None


def _from_header(series: Series) -> Series:
    facts = series.facts
    text = _plain(f"{facts.get('Description', '')}")
    kind = _plain(" ".join(map(str, facts.get("ImageType", ()))))
    part = _plain(str(facts.get("BodyPartExamined", "")))
    if "localizer" in kind:
        return replace(series, fault="is a localiser by its header")
    if _number(facts, "DiffusionBValue") or _says(kind, "diffusion|adc|tracew|fa|tensor"):  # Philips writes b = 0 in any series
        return replace(series, fault="is diffusion by its header")
    if "EP" in str(facts.get("ScanningSequence", "")) or facts.get("EchoPlanarPulseSequence") == "YES":
        return replace(series, fault="is echo-planar by its header, as diffusion and perfusion are")
    if _says(kind, r"sub|subtract\w*"):
        return replace(series, fault="is a subtraction by its header")
    if str(facts.get("AngioFlag", "N")).upper() == "Y":
        return replace(series, fault="is angiography by its header")
    if re.search(ELSEWHERE, part) and not re.search(HEAD, part):
        return replace(series, fault=f"shows the {part}, not the head")
    strange = _strange(text)
    if strange:
        return replace(series, fault=f"is {strange} by its description")
    echo, repetition = _number(facts, "EchoTime", "EffectiveEchoTime"), _number(facts, "RepetitionTime")
    inversion = _number(facts, "InversionTime", "InversionTimes")
    timing = ", ".join(
        f"{name} {value:g} ms" for name, value in (("TR", repetition), ("TE", echo), ("TI", inversion)) if value is not None
    )
    by_words = next((key for key, pattern in WORDS.items() if _says(text, pattern)), None)
    if by_words == "flair" and _says(text, "t1"):
        by_words = "t1"
    gradient = "GR" in str(facts.get("ScanningSequence", "")) or "GRADIENT" in str(facts.get("EchoPulseSequence", ""))
    weighting = _by_timing(echo, repetition, inversion, gradient) or by_words
    if weighting == "t2" and by_words == "flair" and inversion is None:  # not every header has it
        weighting = "flair"
    if by_words == "t1" and str(weighting).startswith("proton") and inversion is None:
        weighting = "t1"
    if weighting not in MODALITIES:
        return replace(series, fault=f"fits none of the four by its timing ({weighting or timing or 'none given'})")
    warnings = series.warnings
    if by_words not in (None, weighting):
        warnings = (*warnings, f"its description says {NAMES[by_words]}, its timing {NAMES[weighting]}; the timing counts")
    reason = f"{timing or 'no timing'}" + (f", described as {NAMES[by_words]}" if by_words else "")
    if weighting == "t1":
        agent = _plain(str(facts.get("ContrastBolusAgent", "")))
        given = bool(agent) and not _says(agent, NOT_GIVEN)
        if (given or _says_with(text)) and not _says(text, WITHOUT):
            weighting = "t1ce"
            reason += ", contrast agent in its header" if given else ", contrast agent in its description"
        elif _says(text, WITHOUT):
            reason += ", without contrast agent by its description"
        else:
            reason += ", no contrast agent mentioned"
    return replace(series, modality=weighting, reason=f"{NAMES[weighting]}: {reason}", warnings=warnings)


def _by_timing(echo: float | None, repetition: float | None, inversion: float | None, gradient: bool) -> str | None:
    """Weighting that a spin or gradient echo of this timing (ms) has; None if the timing is not known."""
    if echo is None or repetition is None:
        return None
    if gradient and echo >= 12 and (inversion or 0) == 0:
        return "T2*, which shows iron and blood"
    if echo >= 50:
        return "flair" if (inversion or 0) > 1200 else "t2" if repetition > 1000 else "an unusual spin echo"
    if inversion and inversion < 1400:
        return "t1"
    if gradient and repetition >= 1400:  # an MPRAGE whose header has no TI
        return None
    return "t1" if repetition < 1400 else "proton density, which has a short TE and a long TR"


def _derived(series: Series) -> bool:
    """Whether a series was computed from another."""
    return bool({"DERIVED", "MPR"} & set(map(str, series.facts.get("ImageType", ()))))


def is_partial(shape: Sequence[int], spacing: Sequence[float]) -> bool:
    """Whether a grid is too short for a brain, as fine series of the orbits or the pituitary gland are."""
    return min(np.multiply(shape, spacing), default=0) < WHOLE_MM


def _partial(series: Series) -> bool:
    return is_partial(series.shape, series.spacing)


def _rank(series: Series) -> tuple:
    """Finest first: a whole head, acquired before computed, then thin slices, then small pixels, then the first made."""
    volume = round(float(np.prod(series.spacing or (99,))), 2)
    number = [int(part) for part in re.findall(r"\d+", series.number)]
    kind = (series.facts.get("Depth", 0), _partial(series), _derived(series))
    return *kind, round(max(series.spacing or (99,)), 1), volume, number


def _override(series: list[Series], modality: str, wanted: str) -> list[Series]:
    """The same series with the user's choice for one modality, by number or by a NIfTI file's name."""
    parts, whole = Path(wanted).parts, Path(wanted).resolve()  # a file's name, the end of its path, or a path from here
    matches = [one for one in series if wanted == one.number] or [
        one
        for one in series
        if not one.is_dicom and (one.files[0].parts[-len(parts) :] == parts or one.files[0].resolve() == whole)
    ]
    if len(matches) > 1:
        numbers = ", ".join(one.number for one in matches)
        raise SessionError(f"{len(matches)} files are called {wanted}", f"say --{modality} with a number ({numbers}) or a path")
    if not matches:
        known = ", ".join(one.number for one in series if one.number)
        raise SessionError(f"there is no series {wanted} for --{modality}", f"choose one of {known}, or a NIfTI file's name")
    if matches[0].fault and not matches[0].shape:
        raise SessionError(f"{matches[0].label} {matches[0].fault}", f"choose another for --{modality}")
    chosen = replace(matches[0], modality=modality, reason=f"{NAMES[modality]}: as you said", fault="")
    return [chosen if one is matches[0] else replace(one, modality=None, reason=one.reason or "was not asked for")
            if one.modality == modality else one for one in series]  # fmt: skip
