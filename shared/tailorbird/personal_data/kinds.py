"""What is taken for personal data. An operator's own patterns may add kinds of other names."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """A kind of personal data. docs/personal_data.md says by which rules each is found."""

    EMAIL = "email"
    PHONE = "phone"
    CREDIT_CARD = "credit_card"
    IBAN = "iban"
    IP_ADDRESS = "ip_address"
    DATE_OF_BIRTH = "date_of_birth"
    MEDICAL_RECORD = "medical_record"
    US_SSN = "us_ssn"
    US_ITIN = "us_itin"
    US_MBI = "us_mbi"
    UK_NINO = "uk_nino"
    UK_NHS = "uk_nhs"
    AU_MEDICARE = "au_medicare"
    AU_TFN = "au_tfn"
    CA_SIN = "ca_sin"
    DE_SOCIAL_SECURITY = "de_social_security"
    DE_TAX_ID = "de_tax_id"
    ES_NIE = "es_nie"
    ES_NIF = "es_nif"
    FI_PERSONAL_IDENTITY_CODE = "fi_personal_identity_code"
    IN_AADHAAR = "in_aadhaar"
    IN_PAN = "in_pan"
    IT_FISCAL_CODE = "it_fiscal_code"
    KR_RRN = "kr_rrn"
    PL_PESEL = "pl_pesel"
    SE_PERSONNUMMER = "se_personnummer"
    SG_NRIC_FIN = "sg_nric_fin"
    TH_TNIN = "th_tnin"
    TR_NATIONAL_ID = "tr_national_id"
    ZA_ID_NUMBER = "za_id_number"
    PERSON = "person"
    """Names. Only with a spaCy model."""
    PLACE = "place"
    """Cities, countries, addresses' names. Only with a spaCy model."""


KINDS = frozenset(Kind)
BY_MODEL = frozenset({Kind.PERSON, Kind.PLACE})
