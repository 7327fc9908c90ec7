//! Word tokens of a sentence as NLTK's `word_tokenize` cuts them (3.10). What is counted of them here is words in capitals, so that
//! quotation marks need not become other marks; where they cut matters, and is the same.

use crate::suites::pattern::{constant, replace_all};

/// What is set apart, in NLTK's order: a pattern, and what stands in its place (`$1` is a group).
const RULES: [(&str, &str); 24] = [
    // Quotation marks that open.
    (r"([«“‘„]|`+)", " $1 "),
    (r#"^""#, "``"),
    (r"(``)", " $1 "),
    (r#"([ (\[{<])("|'{2})"#, "$1 `` "),
    (r"(?i)(?<!\w)(')(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "$1 "),
    // Punctuation: the last period, commas that no digit follows, dots in a row, signs.
    (r#"([^.])(\.)([\])}>"'»”’ ]*)\s*$"#, "$1 $2 $3 "),
    (r"([:,])(\D)", " $1 $2"),
    (r"([:,])$", " $1 "),
    (r"(\.{2,})", " $1 "),
    (r"([;@#$%&])", " $1 "),
    ("([\u{2012}-\u{2015}])", " $1 "),
    (r#"([^.])(\.)([\])}>"']*)\s*$"#, "$1 $2$3 "),
    (r"([?!])", " $1 "),
    (r"([^'])' ", "$1 ' "),
    (r"(\*)", " $1 "),
    (r"([\]\[(){}<>])", " $1 "),
    (r"(--)", " $1 "),
    // Quotation marks that close, and what hangs on a word.
    (r"([»”’])", " $1 "),
    (r"('')", " $1 "),
    (r#"(")"#, " '' "),
    (r"\s+", " "),
    (r"([^' ])('[sS]|'[mM]|'[dD]|') ", "$1 $2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "$1 $2 "),
    (r"(?i)\b(can)(not)\b", " $1 $2 "),
];

/// Contractions without an apostrophe, or with one inside, as two tokens.
const CONTRACTIONS: [&str; 9] = [
    r"(?i)\b(d)('ye)\b",
    r"(?i)\b(gim)(me)\b",
    r"(?i)\b(gon)(na)\b",
    r"(?i)\b(got)(ta)\b",
    r"(?i)\b(lem)(me)\b",
    r"(?i)\b(more)('n)\b",
    r"(?i)\b(wan)(na)(?=\s)",
    r"(?i) ('t)(is)\b",
    r"(?i) ('t)(was)\b",
];

/// Where the text gets a space at both ends: before the closing marks.
const PADDED_AT: usize = 17;

/// The tokens of one sentence.
pub(super) fn tokens(sentence: &str) -> Vec<String> {
    let mut text = sentence.to_owned();
    for (place, (rule, with)) in RULES.iter().enumerate() {
        if place == PADDED_AT {
            text = format!(" {text} ");
        }
        text = applied(rule, with, &text);
    }
    for rule in CONTRACTIONS {
        text = applied(rule, " $1 $2 ", &text);
    }
    text.split_whitespace().map(str::to_owned).collect()
}

fn applied(rule: &'static str, with: &str, text: &str) -> String {
    let Some(regex) = constant(rule) else { return text.to_owned() };
    replace_all(&regex, text, |found| {
        let mut filled = with.to_owned();
        for group in 1..found.len() {
            let value = found.get(group).map_or("", |group| group.as_str());
            // A group's own text may hold a dollar sign, but none of the rules' groups holds one before a digit.
            filled = filled.replacen(&format!("${group}"), value, 1);
        }
        filled
    })
}

#[cfg(test)]
mod tests {
    use super::tokens;

    #[test]
    fn words_are_cut_as_nltk_cuts_them() {
        // By nltk 3.10.4's NLTKWordTokenizer().tokenize.
        let of = |text: &str| tokens(text).join("|");
        assert_eq!(of("I can't go, YOU CAN."), "I|ca|n't|go|,|YOU|CAN|.");
        assert_eq!(of("COST: $3.88 (NATO-LED)."), "COST|:|$|3.88|(|NATO-LED|)|.");
        assert_eq!(of("\"STOP!\" SHE'S SAID; U.S. ARMY..."), "``|STOP|!|''|SHE|'S|SAID|;|U.S.|ARMY|...");
    }
}
