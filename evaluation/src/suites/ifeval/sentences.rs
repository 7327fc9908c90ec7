//! Sentence boundaries by Punkt (Kiss and Strunk 2006), as NLTK's tokenizer (3.10) decides them.
//!
//! A period ends a sentence unless its word is an abbreviation, an initial or a number that the next word's letters speak against; `?` and `!`
//! always end one. Closing quotation marks and brackets stay with the sentence before. What is known of words (abbreviations, pairs that
//! stay together, words that begin sentences, how words are written) is [`PunktParameters`].

use std::collections::{HashMap, HashSet};
use std::path::Path;

use fancy_regex::Regex;
use selfplay_records::{FieldProblem, RecordError, read_regular_text};

/// Bytes of one of NLTK's files at most; the largest has half a million.
const LARGEST_FILE: u64 = 64 << 20;

/// Abbreviations that are known without NLTK's files.
const ABBREVIATIONS: &str = "mr mrs ms dr prof rev gen col capt lt sgt hon st jr sr inc ltd co corp vs etc e.g i.e cf al fig no vol \
                             pp ed eds dept est approx jan feb mar apr jun jul aug sep sept oct nov dec a.m p.m u.s u.k u.n ph.d";

/// Bits of a word's ways of being written.
const MIDDLE_UPPER: u32 = 1 << 2;
const UPPER: u32 = (1 << 1) | (1 << 2) | (1 << 3);
const BEGINNING_LOWER: u32 = 1 << 4;
const LOWER: u32 = (1 << 4) | (1 << 5) | (1 << 6);

/// What Punkt knows of a language's words.
#[derive(Clone, Debug, Default)]
struct PunktParameters {
    abbreviations: HashSet<String>,
    collocations: HashSet<(String, String)>,
    starters: HashSet<String>,
    /// How a word was seen written.
    writing: HashMap<String, u32>,
}

/// Splits texts into sentences.
#[derive(Clone, Debug)]
pub struct SentenceSplitter {
    parameters: PunktParameters,
    period_context: Regex,
    word: Regex,
    realigned: Regex,
}

impl SentenceSplitter {
    /// With a short list of abbreviations and nothing else known.
    pub fn new() -> Self {
        let abbreviations = ABBREVIATIONS.split_whitespace().map(str::to_owned).collect();
        Self::with(PunktParameters { abbreviations, ..PunktParameters::default() })
    }

    /// With NLTK's trained parameters: the folder `punkt_tab/english` with abbrev_types.txt, collocations.tab, sent_starters.txt and
    /// ortho_context.tab.
    ///
    /// # Errors
    /// A file that does not read, or a line of another form.
    pub fn load(folder: &Path) -> Result<Self, RecordError> {
        let lines = |name: &str| -> Result<Vec<String>, RecordError> {
            let path = folder.join(name);
            let text = read_regular_text(&path, LARGEST_FILE)
                .map_err(|source| RecordError::Read { path, source })?;
            Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
        };
        let pairs = |name: &str| -> Result<Vec<(String, String)>, RecordError> {
            let pair = |(row, line): (usize, String)| {
                line.split_once('\t').map(|(first, second)| (first.to_owned(), second.to_owned())).ok_or_else(
                    || {
                        let problem = FieldProblem::new(
                            "the line",
                            "two columns with a tab between",
                            format!("{line:?}"),
                        );
                        RecordError::Field { path: folder.join(name), row, problem }
                    },
                )
            };
            lines(name)?.into_iter().enumerate().map(pair).collect()
        };
        let written = |(row, (word, bits)): (usize, (String, String))| {
            bits.trim().parse().map(|bits| (word, bits)).map_err(|_| {
                let problem = FieldProblem::new("the second column", "an integer", format!("{bits:?}"));
                RecordError::Field { path: folder.join("ortho_context.tab"), row, problem }
            })
        };
        let writing = pairs("ortho_context.tab")?.into_iter().enumerate().map(written);
        Ok(Self::with(PunktParameters {
            abbreviations: lines("abbrev_types.txt")?.into_iter().collect(),
            collocations: pairs("collocations.tab")?.into_iter().collect(),
            starters: lines("sent_starters.txt")?.into_iter().collect(),
            writing: writing.collect::<Result<_, _>>()?,
        }))
    }

    fn with(parameters: PunktParameters) -> Self {
        const CLOSING: &str = r#"(?:[)";}\]*:@'({\[\x{2018}\x{2019}\x{201c}\x{201d}\xab\xbb?!])"#;
        const RUN: &str = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)";
        let period_context = format!(r"[.?!](?=({CLOSING}|\s+(\S+)))");
        let word = format!(
            r#"{RUN}|(?=[^("`{{\[:;&#*@)}}\]\-,])\S+?(?=\s|$|{CLOSING}|{RUN}|,(?=$|\s|{CLOSING}|{RUN}))|\S"#
        );
        let realigned = r#"(?m)\A["')\]}\x{2018}\x{2019}\x{201c}\x{201d}\xab\xbb]+?(?:\s+|(?=--)|$)"#;
        let made = |pattern: &str| Regex::new(pattern).expect("a constant pattern");
        Self {
            parameters,
            period_context: made(&period_context),
            word: made(&word),
            realigned: made(realigned),
        }
    }

    /// The sentences of a text.
    pub fn split<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let spans = self.spans(text);
        let mut sentences = Vec::with_capacity(spans.len());
        let mut shift = 0;
        for (place, &(start, end)) in spans.iter().enumerate() {
            let start = (start + shift).min(text.len());
            shift = 0;
            let Some(&(next, next_end)) = spans.get(place + 1) else {
                sentences.extend(text.get(start..end));
                continue;
            };
            let following = text.get(next..next_end).unwrap_or_default();
            if let Ok(Some(moved)) = self.realigned.find(following) {
                sentences.extend(text.get(start..next + moved.as_str().trim_end().len()));
                shift = moved.end();
            } else {
                sentences.extend(text.get(start..end));
            }
        }
        sentences.retain(|sentence| !sentence.is_empty());
        sentences
    }

    /// Sentences before closing marks are moved.
    fn spans(&self, text: &str) -> Vec<(usize, usize)> {
        let mut spans = Vec::new();
        let mut begin = 0;
        for candidate in self.candidates(text) {
            if self.has_break(candidate.context) {
                spans.push((begin, candidate.end));
                begin = candidate.next.unwrap_or(candidate.end);
            }
        }
        spans.push((begin, text.trim_end().len()));
        spans
    }

    /// Places where a sentence may end; of several in one word, the last.
    fn candidates<'t>(&self, text: &'t str) -> Vec<Candidate<'t>> {
        let mut candidates = Vec::new();
        let mut word = (0, 0);
        let mut before: Option<Candidate<'t>> = None;
        for found in self.period_context.captures_iter(text).map_while(Result::ok) {
            let (Some(sign), Some(after)) = (found.get(0), found.get(1)) else { break };
            let space = text[word.1..sign.start()].rfind([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
            let start = match space {
                // A space at the very front counts as none, as there.
                Some(place) if place > 0 => word.1 + place + 1,
                _ => word.0,
            };
            if let Some(candidate) = before.take()
                && word.1 <= start
            {
                candidates.push(candidate);
            }
            word = (start, sign.start());
            before = Some(Candidate {
                context: &text[start..after.end()],
                end: sign.end(),
                next: found.get(2).map(|token| token.start()),
            });
        }
        candidates.extend(before);
        candidates
    }

    /// Whether a sentence ends within a context, before its last token.
    fn has_break(&self, context: &str) -> bool {
        let tokens: Vec<PunktToken> = context
            .split('\n')
            .filter(|line| !line.trim().is_empty())
            .flat_map(|line| {
                self.word.find_iter(line).map_while(Result::ok).map(|found| self.token(found.as_str()))
            })
            .collect();
        tokens.windows(2).any(|pair| self.decide(&pair[0], &pair[1]))
    }

    /// A token with what it says by itself.
    fn token(&self, text: &str) -> PunktToken {
        let lower = text.to_lowercase();
        let mut token = PunktToken {
            kind: kind_of(&lower),
            text: text.to_owned(),
            ends: false,
            abbreviation: false,
            ellipsis: false,
        };
        if matches!(text, "." | "?" | "!") {
            token.ends = true;
        } else if text.len() > 1 && text.chars().all(|one| one == '.') {
            token.ellipsis = true;
        } else if text.ends_with('.') && !text.ends_with("..") {
            let stem = &lower[..lower.len() - 1];
            let last = stem.rsplit('-').next().unwrap_or(stem);
            let known = |stem: &str| self.parameters.abbreviations.contains(stem);
            token.abbreviation = known(stem) || known(last);
            token.ends = !token.abbreviation;
        }
        token
    }

    /// Whether a sentence ends after `token`, by the one that follows.
    fn decide(&self, token: &PunktToken, next: &PunktToken) -> bool {
        if !token.text.ends_with('.') {
            return token.ends;
        }
        let (kind, next_kind) = (token.kind_without_period(), next.kind_in_sentence());
        let is_initial = token.is_initial();
        let pair = (kind.to_owned(), next_kind.to_owned());
        if self.parameters.collocations.contains(&pair) {
            return false;
        }
        let begins = self.begins_sentence(next);
        if (token.abbreviation || token.ellipsis) && !is_initial {
            let starts = next.is_upper() && self.parameters.starters.contains(next_kind);
            if begins == Some(true) || starts {
                return true;
            }
        }
        if is_initial || kind == NUMBER {
            if begins == Some(false) {
                return false;
            }
            let writing = self.parameters.writing.get(next_kind).copied().unwrap_or(0);
            if begins.is_none() && is_initial && next.is_upper() && writing & LOWER == 0 {
                return false;
            }
        }
        token.ends
    }

    /// What a word's letters say about whether it begins a sentence.
    fn begins_sentence(&self, token: &PunktToken) -> Option<bool> {
        if matches!(token.text.as_str(), ";" | ":" | "," | "." | "!" | "?") {
            return Some(false);
        }
        let writing = self.parameters.writing.get(token.kind_in_sentence()).copied().unwrap_or(0);
        if token.is_upper() && writing & LOWER != 0 && writing & MIDDLE_UPPER == 0 {
            return Some(true);
        }
        let is_lower = token.text.starts_with(char::is_lowercase);
        (is_lower && (writing & UPPER != 0 || writing & BEGINNING_LOWER == 0)).then_some(false)
    }
}

impl Default for SentenceSplitter {
    fn default() -> Self {
        Self::new()
    }
}

/// A place where a sentence may end.
struct Candidate<'t> {
    /// The word before, the sign, and what follows it.
    context: &'t str,
    /// Behind the sign.
    end: usize,
    /// Where the next word begins, where white space is between.
    next: Option<usize>,
}

/// What all numbers are taken for.
const NUMBER: &str = "##number##";

/// A token of a context.
struct PunktToken {
    text: String,
    kind: String,
    /// Ends a sentence, by itself.
    ends: bool,
    abbreviation: bool,
    ellipsis: bool,
}

impl PunktToken {
    fn kind_without_period(&self) -> &str {
        if self.kind.chars().nth(1).is_some() {
            self.kind.strip_suffix('.').unwrap_or(&self.kind)
        } else {
            &self.kind
        }
    }

    /// Its kind, without the period where that ends a sentence.
    fn kind_in_sentence(&self) -> &str {
        if self.ends { self.kind_without_period() } else { &self.kind }
    }

    fn is_upper(&self) -> bool {
        self.text.starts_with(char::is_uppercase)
    }

    /// A letter and a period.
    fn is_initial(&self) -> bool {
        let mut characters = self.text.chars();
        let letter =
            characters.next().is_some_and(|one| one == '_' || one.is_alphanumeric() && !one.is_numeric());
        letter && characters.as_str() == "."
    }
}

/// A word in small letters, a number as [`NUMBER`].
fn kind_of(lower: &str) -> String {
    let digits = lower.strip_prefix('-').unwrap_or(lower);
    let digits = digits.strip_prefix(['.', ',']).unwrap_or(digits);
    let is_number = digits.starts_with(char::is_numeric)
        && digits.chars().all(|one| one.is_numeric() || matches!(one, ',' | '.' | '-'));
    if is_number { NUMBER.to_owned() } else { lower.to_owned() }
}
