"""A sentence with one of each kind of personal data. Nobody's: examples of authorities, invented.

Of kinds that our labelled set has, it is the first sentence that no detector was made by.
"""

from __future__ import annotations

from bench.personal_data.sentences import read

_NOT_LABELLED = {
    "au_medicare": "My Medicare number is 2123 45670 1.",
    "de_social_security": "Meine Sozialversicherungsnummer ist 15070649C103.",
    "de_tax_id": "Meine Steuer-ID ist 86095742719.",
    "es_nie": "Mi NIE es X1234567L.",
    "in_pan": "My PAN is ABCPE1234F.",
    "kr_rrn": "My Korean RRN is 960121-1234564.",
    "se_personnummer": "Mitt personnummer är 811228-9874.",
    "sg_nric_fin": "My NRIC is S1234567D.",
    "th_tnin": "My Thai national ID is 1101700230708.",
    "tr_national_id": "TC kimlik numaram 10000000146.",
    "us_itin": "My ITIN is 912-78-1234.",
    "us_mbi": "My Medicare beneficiary number, the MBI, is 1EG4-TE5-MK73.",
    "za_id_number": "My South African ID number is 8001015009087.",
}


def sentence_with(kind: str) -> str:
    """Return the sentence; ValueError if there is none."""
    if kind in _NOT_LABELLED:
        return _NOT_LABELLED[kind]
    for sentence in read():
        if sentence.part == "held_out" and [span[0] for span in sentence.spans] == [kind]:
            return sentence.text
    raise ValueError(f"no sentence has {kind} alone")
