//! A place among a template's tokens, and the bounds on what is built from there on.

use std::sync::Arc;

use super::super::ast::{Expr, ExprKind};
use super::super::fault::{RenderResult, TemplateFault};
use super::super::lexer::{Lexeme, Token};

/// Brackets, blocks and signs in one another. Python gives up at about as many.
const MOST_NESTED: usize = 60;
/// Depth of an expression's tree, as chains like `a.b.c` and `1 + 1 + 1` make it.
const MOST_DEPTH: u16 = 120;

/// Reads one token after the other.
pub(super) struct Parser {
    pub(super) tokens: Vec<Lexeme>,
    pub(super) at: usize,
    pub(super) nested: usize,
    /// Loops around this place, within one macro.
    pub(super) loops: usize,
    /// Every name that was read, in order: what a macro or a loop asks for.
    pub(super) names: Vec<Arc<str>>,
}

pub(super) type Parsed = RenderResult<Expr>;

impl Parser {
    pub(super) fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |lexeme| &lexeme.token)
    }

    pub(super) fn look(&self) -> &Token {
        self.tokens.get(self.at + 1).map_or(&Token::End, |lexeme| &lexeme.token)
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |lexeme| lexeme.line)
    }

    pub(super) fn next(&mut self) -> Token {
        let token = self.peek().clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> RenderResult<T> {
        Err(TemplateFault::syntax(message, self.line()))
    }

    pub(super) fn unexpected<T>(&self, wanted: &str) -> RenderResult<T> {
        self.fail(format!("expected {wanted}, got {}", describe(self.peek())))
    }

    pub(super) fn is_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), Token::Operator(found) if *found == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if found == name)
    }

    pub(super) fn skip_operator(&mut self, operator: &str) -> bool {
        let is = self.is_operator(operator);
        if is {
            self.next();
        }
        is
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let is = self.is_name(name);
        if is {
            self.next();
        }
        is
    }

    pub(super) fn expect_operator(&mut self, operator: &str) -> RenderResult<()> {
        if self.skip_operator(operator) { Ok(()) } else { self.unexpected(&format!("'{operator}'")) }
    }

    pub(super) fn expect_name(&mut self, name: &str) -> RenderResult<()> {
        if self.skip_name(name) { Ok(()) } else { self.unexpected(&format!("'{name}'")) }
    }

    pub(super) fn expect(&mut self, token: &Token, wanted: &str) -> RenderResult<()> {
        if self.peek() != token {
            return self.unexpected(wanted);
        }
        self.next();
        Ok(())
    }

    pub(super) fn name(&mut self) -> RenderResult<String> {
        match self.peek() {
            Token::Name(name) => {
                let name = name.clone();
                self.next();
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    /// Runs a rule one level deeper.
    pub(super) fn nested<T>(&mut self, rule: impl FnOnce(&mut Self) -> RenderResult<T>) -> RenderResult<T> {
        if self.nested >= MOST_NESTED {
            return self.fail(format!("it is nested more than {MOST_NESTED} deep"));
        }
        self.nested += 1;
        let result = rule(self);
        self.nested -= 1;
        result
    }

    pub(super) fn expr<'e>(
        &self,
        kind: ExprKind,
        line: u32,
        parts: impl IntoIterator<Item = &'e u16>,
    ) -> Parsed {
        let depth = parts.into_iter().copied().max().unwrap_or(0) + 1;
        if depth > MOST_DEPTH {
            return self.fail(format!("an expression is more than {MOST_DEPTH} operations deep"));
        }
        Ok(Expr { kind, line, depth })
    }
}

fn describe(token: &Token) -> String {
    match token {
        Token::Data(_) => "template data / text".to_owned(),
        Token::VariableBegin => "begin of print statement".to_owned(),
        Token::VariableEnd => "end of print statement".to_owned(),
        Token::BlockBegin => "begin of statement block".to_owned(),
        Token::BlockEnd => "end of statement block".to_owned(),
        Token::Name(name) => format!("'{name}'"),
        Token::Text(_) => "a string".to_owned(),
        Token::Int(_) | Token::Float(_) => "a number".to_owned(),
        Token::Operator(operator) => format!("'{operator}'"),
        Token::End => "end of template".to_owned(),
    }
}
