//! An instruction with its arguments, as input_data.jsonl has them.

use fancy_regex::Regex;
use selfplay_records::FieldProblem;

use crate::suites::data_row::DataRow;
use crate::suites::fields;

/// `less than` or `at least`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Fewer than the threshold.
    LessThan,
    /// The threshold or more.
    AtLeast,
}

impl Relation {
    pub(super) fn holds(self, count: usize, threshold: usize) -> bool {
        match self {
            Self::LessThan => count < threshold,
            Self::AtLeast => count >= threshold,
        }
    }
}

/// A threshold on a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// On which side.
    pub relation: Relation,
    /// Of what.
    pub threshold: usize,
}

impl Bound {
    pub(super) fn holds(self, count: usize) -> bool {
        self.relation.holds(count, self.threshold)
    }
}

/// One of the 25 kinds, with its arguments.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each is the id of the published table, which its arguments explain")]
pub enum CheckedInstruction {
    KeywordsExistence { keywords: Vec<Regex> },
    KeywordsFrequency { keyword: Regex, bound: Bound },
    ForbiddenWords { words: Vec<Regex> },
    LetterFrequency { letter: char, bound: Bound },
    ResponseLanguage { language: String },
    NumberSentences { bound: Bound },
    NumberParagraphs { count: usize },
    NumberWords { bound: Bound },
    NthParagraphFirstWord { paragraphs: usize, nth: usize, first_word: String },
    NumberPlaceholders { at_least: usize },
    Postscript { marker: Regex },
    NumberBulletLists { count: usize },
    ConstrainedResponse,
    NumberHighlightedSections { at_least: usize },
    MultipleSections { splitter: Regex, at_least: usize },
    JsonFormat,
    Title,
    TwoResponses,
    RepeatPrompt { prompt: String },
    EndChecker { phrase: String },
    CapitalWordFrequency { bound: Bound },
    EnglishCapital,
    EnglishLowercase,
    NoComma,
    Quotation,
}

/// Every id that is known.
pub const INSTRUCTION_IDS: [&str; 25] = [
    "keywords:existence",
    "keywords:frequency",
    "keywords:forbidden_words",
    "keywords:letter_frequency",
    "language:response_language",
    "length_constraints:number_sentences",
    "length_constraints:number_paragraphs",
    "length_constraints:number_words",
    "length_constraints:nth_paragraph_first_word",
    "detectable_content:number_placeholders",
    "detectable_content:postscript",
    "detectable_format:number_bullet_lists",
    "detectable_format:constrained_response",
    "detectable_format:number_highlighted_sections",
    "detectable_format:multiple_sections",
    "detectable_format:json_format",
    "detectable_format:title",
    "combination:two_responses",
    "combination:repeat_prompt",
    "startend:end_checker",
    "change_case:capital_word_frequency",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "punctuation:no_comma",
    "startend:quotation",
];

impl CheckedInstruction {
    /// Reads an instruction's arguments.
    ///
    /// # Errors
    /// An id that is unknown, an argument that is absent or of another type, a keyword that is no regular expression.
    pub fn read(id: &str, arguments: &DataRow) -> Result<Self, FieldProblem> {
        let count = |name| fields::index(arguments, name);
        let bound = |threshold, relation| {
            Ok::<_, FieldProblem>(Bound {
                threshold: count(threshold)?,
                relation: relation_of(arguments, relation)?,
            })
        };
        // Keywords are searched as regular expressions, whatever their case, as published.
        let anywhere = |name: &'static str, pattern: String| regex(name, &format!("(?i){pattern}"));
        Ok(match id {
            "keywords:existence" => {
                let words = fields::texts(arguments, "keywords")?;
                let keywords = words.into_iter().map(|word| anywhere("keywords", word));
                Self::KeywordsExistence { keywords: keywords.collect::<Result<_, _>>()? }
            }
            "keywords:frequency" => {
                let word = fields::text(arguments, "keyword")?.trim().to_owned();
                Self::KeywordsFrequency {
                    keyword: anywhere("keyword", word)?,
                    bound: bound("frequency", "relation")?,
                }
            }
            "keywords:forbidden_words" => {
                let words = fields::texts(arguments, "forbidden_words")?;
                let words = words.into_iter().map(|word| anywhere("forbidden_words", format!(r"\b{word}\b")));
                Self::ForbiddenWords { words: words.collect::<Result<_, _>>()? }
            }
            "keywords:letter_frequency" => {
                let text = fields::text(arguments, "letter")?;
                let mut characters = text.trim().chars().flat_map(char::to_lowercase);
                match (characters.next(), characters.next()) {
                    (Some(letter), None) => {
                        Self::LetterFrequency { letter, bound: bound("let_frequency", "let_relation")? }
                    }
                    _ => return Err(FieldProblem::new("letter", "one letter", format!("{text:?}"))),
                }
            }
            "language:response_language" => {
                Self::ResponseLanguage { language: fields::text(arguments, "language")?.to_owned() }
            }
            "length_constraints:number_sentences" => {
                Self::NumberSentences { bound: bound("num_sentences", "relation")? }
            }
            "length_constraints:number_paragraphs" => {
                Self::NumberParagraphs { count: count("num_paragraphs")? }
            }
            "length_constraints:number_words" => Self::NumberWords { bound: bound("num_words", "relation")? },
            "length_constraints:nth_paragraph_first_word" => Self::NthParagraphFirstWord {
                paragraphs: count("num_paragraphs")?,
                nth: count("nth_paragraph")?,
                first_word: fields::text(arguments, "first_word")?.to_lowercase(),
            },
            "detectable_content:number_placeholders" => {
                Self::NumberPlaceholders { at_least: count("num_placeholders")? }
            }
            "detectable_content:postscript" => {
                let pattern = match fields::text(arguments, "postscript_marker")?.trim() {
                    "P.P.S" => r"\s*p\.\s?p\.\s?s.*$".to_owned(),
                    "P.S." => r"\s*p\.\s?s\..*$".to_owned(),
                    other => format!(r"\s*{}.*$", other.to_lowercase()),
                };
                Self::Postscript { marker: regex("postscript_marker", &format!("(?m){pattern}"))? }
            }
            "detectable_format:number_bullet_lists" => {
                Self::NumberBulletLists { count: count("num_bullets")? }
            }
            "detectable_format:constrained_response" => Self::ConstrainedResponse,
            "detectable_format:number_highlighted_sections" => {
                Self::NumberHighlightedSections { at_least: count("num_highlights")? }
            }
            "detectable_format:multiple_sections" => {
                let splitter = fields::text(arguments, "section_spliter")?.trim();
                let splitter = regex("section_spliter", &format!(r"\s?{splitter}\s?\d+\s?"))?;
                Self::MultipleSections { splitter, at_least: count("num_sections")? }
            }
            "detectable_format:json_format" => Self::JsonFormat,
            "detectable_format:title" => Self::Title,
            "combination:two_responses" => Self::TwoResponses,
            "combination:repeat_prompt" => Self::RepeatPrompt {
                prompt: fields::text(arguments, "prompt_to_repeat")?.trim().to_lowercase(),
            },
            "startend:end_checker" => {
                Self::EndChecker { phrase: fields::text(arguments, "end_phrase")?.trim().to_lowercase() }
            }
            "change_case:capital_word_frequency" => {
                Self::CapitalWordFrequency { bound: bound("capital_frequency", "capital_relation")? }
            }
            "change_case:english_capital" => Self::EnglishCapital,
            "change_case:english_lowercase" => Self::EnglishLowercase,
            "punctuation:no_comma" => Self::NoComma,
            "startend:quotation" => Self::Quotation,
            other => {
                let expected = format!("one of {}", INSTRUCTION_IDS.join(", "));
                return Err(FieldProblem::new("instruction_id_list", expected, format!("{other:?}")));
            }
        })
    }
}

fn relation_of(arguments: &DataRow, name: &str) -> Result<Relation, FieldProblem> {
    match fields::text(arguments, name)? {
        "less than" => Ok(Relation::LessThan),
        "at least" => Ok(Relation::AtLeast),
        other => Err(FieldProblem::new(name, "\"less than\" or \"at least\"", format!("{other:?}"))),
    }
}

fn regex(name: &str, pattern: &str) -> Result<Regex, FieldProblem> {
    Regex::new(pattern).map_err(|error| FieldProblem::new(name, "words, or a regular expression", error))
}
