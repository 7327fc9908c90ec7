//! A template's text → tokens, with Jinja's rules of whitespace as transformers sets them: `trim_blocks` and
//! `lstrip_blocks` on, one line end at the very end dropped.
//!
//! Past 400 lines: one function for each kind of token.

use super::fault::{RenderResult, TemplateFault};

/// A token of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text outside of tags.
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Text(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// A token with the line on which it stands, from 1.
#[derive(Clone, Debug)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) line: u32,
}

/// Longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

/// All tokens of `source`, an end at the end. Error: what is no token.
pub(super) fn tokens(source: &str) -> RenderResult<Vec<Lexeme>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, starts_line: true, out: Vec::new() };
    lexer.run()?;
    lexer.push(Token::End);
    Ok(lexer.out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Block,
    Variable,
    Comment,
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: u32,
    /// Whether what came last ended in a line end.
    starts_line: bool,
    out: Vec<Lexeme>,
}

impl<'s> Lexer<'s> {
    fn run(&mut self) -> RenderResult<()> {
        while self.at < self.source.len() {
            let Some((start, tag)) = self.next_tag() else {
                let rest = &self.source[self.at..];
                self.data(rest.to_owned(), rest);
                self.at = self.source.len();
                return Ok(());
            };
            let text = &self.source[self.at..start];
            let raw = if tag == Tag::Block { raw_begin(&self.source[start..]) } else { None };
            let sign = self.source.as_bytes().get(start + 2).copied();
            self.text_before(text, sign, tag);
            self.at = start + 2 + usize::from(matches!(sign, Some(b'-' | b'+')));
            self.starts_line = false;
            if let Some(length) = raw {
                let begin = &self.source[start..start + length];
                self.line += lines(begin);
                self.starts_line = begin.ends_with('\n');
                self.at = start + length;
                self.raw()?;
                continue;
            }
            match tag {
                Tag::Comment => self.comment()?,
                Tag::Block => {
                    self.push(Token::BlockBegin);
                    self.tag(Tag::Block)?;
                }
                Tag::Variable => {
                    self.push(Token::VariableBegin);
                    self.tag(Tag::Variable)?;
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, token: Token) {
        self.out.push(Lexeme { token, line: self.line });
    }

    /// Data, with the lines of the text that it was cut from counted.
    fn data(&mut self, data: String, of: &str) {
        if !data.is_empty() {
            self.push(Token::Data(data));
        }
        self.line += lines(of);
    }

    fn next_tag(&self) -> Option<(usize, Tag)> {
        let bytes = self.source.as_bytes();
        let mut at = self.at;
        while let Some(offset) = bytes[at..].iter().position(|byte| *byte == b'{') {
            at += offset;
            match bytes.get(at + 1) {
                Some(b'%') => return Some((at, Tag::Block)),
                Some(b'{') => return Some((at, Tag::Variable)),
                Some(b'#') => return Some((at, Tag::Comment)),
                _ => at += 1,
            }
        }
        None
    }

    /// The text before a tag, less what its sign and `lstrip_blocks` take away.
    fn text_before(&mut self, text: &str, sign: Option<u8>, tag: Tag) {
        let kept = match sign {
            Some(b'-') => text.trim_end_matches(is_space),
            Some(b'+') => text,
            _ if tag == Tag::Variable => text,
            _ => {
                let line_start = text.rfind('\n').map_or(0, |place| place + 1);
                let is_blank = text[line_start..].chars().all(is_space);
                if is_blank && (line_start > 0 || self.starts_line) { &text[..line_start] } else { text }
            }
        };
        self.data(kept.to_owned(), text);
    }

    fn comment(&mut self) -> RenderResult<()> {
        let Some(length) = self.source[self.at..].find("#}") else {
            return Err(TemplateFault::syntax("Missing end of comment tag", self.line));
        };
        let inner = &self.source[self.at..self.at + length];
        self.line += lines(inner);
        self.at += length + 2;
        self.after_end(inner.as_bytes().last().copied());
        Ok(())
    }

    /// What the end of a block or comment takes of the text after it.
    fn after_end(&mut self, sign: Option<u8>) {
        let rest = &self.source[self.at..];
        let taken = match sign {
            Some(b'-') => rest.len() - rest.trim_start_matches(is_space).len(),
            Some(b'+') => 0,
            _ => usize::from(rest.starts_with('\n')),
        };
        let taken = &rest[..taken];
        self.line += lines(taken);
        self.starts_line = taken.ends_with('\n');
        self.at += taken.len();
    }

    fn raw(&mut self) -> RenderResult<()> {
        let from = self.at;
        let mut search = from;
        while let Some(offset) = self.source[search..].find("{%") {
            let start = search + offset;
            if let Some((length, end_sign)) = raw_end(&self.source[start..]) {
                let text = &self.source[from..start];
                let sign = self.source.as_bytes().get(start + 2).copied();
                self.text_before(text, sign, Tag::Block);
                self.line += lines(&self.source[start..start + length]);
                self.at = start + length;
                self.after_end(end_sign);
                return Ok(());
            }
            search = start + 2;
        }
        Err(TemplateFault::syntax("Missing end of raw directive", self.line))
    }

    /// The inside of a block or variable tag, its end included.
    fn tag(&mut self, tag: Tag) -> RenderResult<()> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            let rest = &self.source[self.at..];
            if open.is_empty() && self.tag_end(tag, rest) {
                return Ok(());
            }
            let Some(first) = rest.chars().next() else { return Ok(()) };
            if is_space(first) {
                let length = rest.len() - rest.trim_start_matches(is_space).len();
                self.line += lines(&rest[..length]);
                self.at += length;
            } else if first.is_ascii_digit() {
                self.number(rest)?;
            } else if first.is_alphanumeric() || first == '_' {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                self.push(Token::Name(rest[..length].to_owned()));
                self.at += length;
            } else if first == '\'' || first == '"' {
                self.string(rest)?;
            } else if let Some(operator) = OPERATORS.iter().find(|operator| rest.starts_with(**operator)) {
                self.balance(operator, &mut open)?;
                self.push(Token::Operator(operator));
                self.at += operator.len();
            } else {
                return Err(TemplateFault::syntax(format!("unexpected char {first:?}"), self.line));
            }
        }
    }

    fn tag_end(&mut self, tag: Tag, rest: &str) -> bool {
        let (close, end) = match tag {
            Tag::Variable => ("}}", Token::VariableEnd),
            _ => ("%}", Token::BlockEnd),
        };
        let sign = rest.as_bytes().first().copied().filter(|byte| match tag {
            Tag::Variable => *byte == b'-',
            _ => matches!(byte, b'-' | b'+'),
        });
        let length = usize::from(sign.is_some());
        if !rest[length..].starts_with(close) {
            return false;
        }
        self.push(end);
        self.at += length + close.len();
        self.starts_line = false;
        if tag == Tag::Block || sign == Some(b'-') {
            self.after_end(sign);
        }
        true
    }

    fn balance(&self, operator: &str, open: &mut Vec<u8>) -> RenderResult<()> {
        let closing = match operator {
            "(" => b')',
            "[" => b']',
            "{" => b'}',
            ")" | "]" | "}" => {
                let wanted = open.pop();
                if wanted.map(char::from) == operator.chars().next() {
                    return Ok(());
                }
                let hint =
                    wanted.map(|byte| format!(", expected '{}'", char::from(byte))).unwrap_or_default();
                return Err(TemplateFault::syntax(format!("unexpected '{operator}'{hint}"), self.line));
            }
            _ => return Ok(()),
        };
        open.push(closing);
        Ok(())
    }

    fn number(&mut self, rest: &str) -> RenderResult<()> {
        let bytes = rest.as_bytes();
        let after_dot = self.at > 0 && self.source.as_bytes()[self.at - 1] == b'.';
        if !after_dot && let Some(length) = float_length(bytes) {
            let number: f64 = rest[..length].replace('_', "").parse().unwrap_or(f64::NAN);
            self.push(Token::Float(number));
            self.at += length;
            return Ok(());
        }
        let radix = match bytes.get(1).map(u8::to_ascii_lowercase) {
            _ if bytes[0] != b'0' => 10,
            Some(b'x') => 16,
            Some(b'o') => 8,
            Some(b'b') => 2,
            _ => 10,
        };
        let prefix = if radix == 10 { 0 } else { 2 };
        let is_digit = |byte: u8| {
            // `0(_?0)*`: a number that begins with 0 is 0.
            if radix == 10 && bytes[0] == b'0' { byte == b'0' } else { char::from(byte).is_digit(radix) }
        };
        let mut length = prefix;
        while let Some(byte) = bytes.get(length) {
            if is_digit(*byte) || (*byte == b'_' && bytes.get(length + 1).is_some_and(|next| is_digit(*next)))
            {
                length += 1;
            } else {
                break;
            }
        }
        let (digits, radix, length) = if length == prefix {
            ("0".to_owned(), 10, 1)
        } else {
            (rest[prefix..length].replace('_', ""), radix, length)
        };
        let number = i128::from_str_radix(&digits, radix)
            .map_err(|_| TemplateFault::syntax("an integer has more than 38 digits", self.line))?;
        self.push(Token::Int(number));
        self.at += length;
        Ok(())
    }

    fn string(&mut self, rest: &str) -> RenderResult<()> {
        let bytes = rest.as_bytes();
        let quote = bytes[0];
        let mut end = 1;
        loop {
            match bytes.get(end) {
                None => return Err(TemplateFault::syntax("a string is not closed", self.line)),
                Some(byte) if *byte == quote => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
            }
        }
        let text = unescape(&rest[1..end]).map_err(|message| TemplateFault::syntax(message, self.line))?;
        self.push(Token::Text(text));
        self.line += lines(&rest[..end]);
        self.at += end + 1;
        Ok(())
    }
}

/// Python's white space.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

fn lines(text: &str) -> u32 {
    text.bytes().filter(|byte| *byte == b'\n').count() as u32
}

/// The length of `{% raw %}` where `text` begins with it; after `-%}` white space belongs to it.
fn raw_begin(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start_matches(is_space);
    let inner = inner.strip_prefix("raw")?.trim_start_matches(is_space);
    let rest = match inner.strip_prefix("-%}") {
        Some(rest) => rest.trim_start_matches(is_space),
        None => inner.strip_prefix("%}")?,
    };
    Some(text.len() - rest.len())
}

/// The length of `{% endraw %}` where `text` begins with it, and the sign before its end.
fn raw_end(text: &str) -> Option<(usize, Option<u8>)> {
    let inner = text.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start_matches(is_space);
    let inner = inner.strip_prefix("endraw")?.trim_start_matches(is_space);
    let sign = inner.bytes().next().filter(|byte| matches!(byte, b'-' | b'+'));
    let rest = inner[usize::from(sign.is_some())..].strip_prefix("%}")?;
    Some((text.len() - rest.len(), sign))
}

/// The length of a number with a fraction or an exponent.
fn float_length(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        let mut at = from;
        while let Some(byte) = bytes.get(at) {
            let joins = *byte == b'_' && at > from && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
            if !byte.is_ascii_digit() && !joins {
                break;
            }
            at += 1;
        }
        at
    };
    let whole = digits(0);
    let mut end = whole;
    let fraction = digits(whole + 1);
    if bytes.get(whole) == Some(&b'.') && fraction > whole + 1 {
        end = fraction;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let from = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(from);
        if exponent > from {
            end = exponent;
        }
    }
    (end > whole).then_some(end)
}

/// A string's text, by Python's escapes.
fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(place) = rest.find('\\') {
        out.push_str(&rest[..place]);
        rest = &rest[place + 1..];
        let Some(kind) = rest.chars().next() else { return Err("a string ends in a backslash".to_owned()) };
        rest = &rest[kind.len_utf8()..];
        match kind {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(kind),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\x0b'),
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                let digits = format!("{kind}{}", &rest[..more]);
                rest = &rest[more..];
                out.extend(u32::from_str_radix(&digits, 8).ok().and_then(char::from_u32));
            }
            'x' | 'u' | 'U' => {
                let width = match kind {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let code = hexadecimal(rest, width).ok_or_else(|| format!("truncated \\{kind} escape"))?;
                rest = &rest[width..];
                let mut point = code;
                // A pair of surrogates is one character here; Python keeps the two and cannot write them out.
                if (0xD800..0xDC00).contains(&code)
                    && let Some(low) = rest.strip_prefix("\\u").and_then(|after| hexadecimal(after, 4))
                    && (0xDC00..0xE000).contains(&low)
                {
                    point = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                    rest = &rest[6..];
                }
                out.push(char::from_u32(point).ok_or("a string holds half a surrogate pair")?);
            }
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn hexadecimal(text: &str, width: usize) -> Option<u32> {
    let digits = text.get(..width)?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}
