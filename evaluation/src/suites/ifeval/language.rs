//! Which language a text is in: whatlang's guess, by the codes of ISO 639-1 that IFEval's rows have.

use whatlang::{Lang, detect_lang};

/// Whether a text is in a language. A text without letters is in every language, as a guess that fails counts as followed there.
pub(super) fn is(text: &str, code: &str) -> bool {
    if !text.chars().any(char::is_alphabetic) {
        return true;
    }
    // The statistics of languages are of small letters.
    detect_lang(&text.to_lowercase()).is_some_and(|language| code_of(language) == code)
}

/// ISO 639-1; langdetect names Chinese by its script, and rows ask for `zh`.
fn code_of(language: Lang) -> &'static str {
    match language {
        Lang::Eng => "en",
        Lang::Spa => "es",
        Lang::Por => "pt",
        Lang::Ara => "ar",
        Lang::Hin => "hi",
        Lang::Fra => "fr",
        Lang::Rus => "ru",
        Lang::Deu => "de",
        Lang::Jpn => "ja",
        Lang::Ita => "it",
        Lang::Ben => "bn",
        Lang::Ukr => "uk",
        Lang::Tha => "th",
        Lang::Urd => "ur",
        Lang::Tam => "ta",
        Lang::Tel => "te",
        Lang::Bul => "bg",
        Lang::Kor => "ko",
        Lang::Pol => "pl",
        Lang::Heb => "he",
        Lang::Pes => "fa",
        Lang::Vie => "vi",
        Lang::Nep => "ne",
        Lang::Kan => "kn",
        Lang::Mar => "mr",
        Lang::Guj => "gu",
        Lang::Pan => "pa",
        Lang::Mal => "ml",
        Lang::Fin => "fi",
        Lang::Cmn => "zh",
        Lang::Nld => "nl",
        Lang::Swe => "sv",
        Lang::Tur => "tr",
        Lang::Ces => "cs",
        Lang::Ell => "el",
        Lang::Dan => "da",
        Lang::Ron => "ro",
        Lang::Hun => "hu",
        Lang::Ind => "id",
        other => other.code(),
    }
}
