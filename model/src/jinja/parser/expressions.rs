//! Expressions, from the loosest binding to the tightest: one function a rule.
//!
//! Past 400 lines: one grammar.

use std::sync::Arc;

use super::super::ast::{Arguments, ComparisonOperator, Expr, ExprKind, Operator};
use super::super::fault::RenderResult;
use super::super::lexer::Token;
use super::cursor::{Parsed, Parser};

/// Named arguments of one call.
const MOST_NAMED: usize = 1000;

impl Parser {
    pub(super) fn ends_tuple(&self, end: Option<&str>) -> bool {
        matches!(self.peek(), Token::VariableEnd | Token::BlockEnd)
            || self.is_operator(")")
            || end.is_some_and(|end| self.is_name(end))
    }

    /// An expression, or several with commas between them.
    pub(super) fn tuple(&mut self, with_condition: bool, end: Option<&str>) -> Parsed {
        let line = self.line();
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if self.ends_tuple(end) {
                break;
            }
            items.push(if with_condition { self.expression()? } else { self.or()? });
            if !self.skip_operator(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            Some(only) if !is_tuple => Ok(only),
            Some(last) => {
                items.push(last);
                self.tuple_of(items, line)
            }
            None => self.unexpected("an expression"),
        }
    }

    pub(super) fn tuple_of(&self, items: Vec<Expr>, line: u32) -> Parsed {
        let depths: Vec<u16> = items.iter().map(|item| item.depth).collect();
        self.expr(ExprKind::Tuple(items), line, &depths)
    }

    pub(super) fn expression(&mut self) -> Parsed {
        self.nested(Self::conditional)
    }

    pub(super) fn conditional(&mut self) -> Parsed {
        let line = self.line();
        let mut then = self.or()?;
        while self.skip_name("if") {
            let test = self.or()?;
            let otherwise = if self.skip_name("else") { Some(self.nested(Self::conditional)?) } else { None };
            let depths = [test.depth, then.depth, otherwise.as_ref().map_or(0, |expr| expr.depth)];
            then = self.expr(ExprKind::Conditional(Box::new((test, then, otherwise))), line, &depths)?;
        }
        Ok(then)
    }

    pub(super) fn or(&mut self) -> Parsed {
        let line = self.line();
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?;
            let depths = [left.depth, right.depth];
            left = self.expr(ExprKind::Or(Box::new((left, right))), line, &depths)?;
        }
        Ok(left)
    }

    pub(super) fn and(&mut self) -> Parsed {
        let line = self.line();
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?;
            let depths = [left.depth, right.depth];
            left = self.expr(ExprKind::And(Box::new((left, right))), line, &depths)?;
        }
        Ok(left)
    }

    pub(super) fn not(&mut self) -> Parsed {
        let line = self.line();
        if self.skip_name("not") {
            let inner = self.nested(Self::not)?;
            let depth = inner.depth;
            return self.expr(ExprKind::Not(Box::new(inner)), line, &[depth]);
        }
        self.compare()
    }

    pub(super) fn compare(&mut self) -> Parsed {
        let line = self.line();
        let first = self.sum()?;
        let mut rest = Vec::new();
        while let Some(comparison) = self.comparison() {
            rest.push((comparison, self.sum()?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let depths: Vec<u16> =
            std::iter::once(first.depth).chain(rest.iter().map(|(_, expr)| expr.depth)).collect();
        self.expr(ExprKind::Compare(Box::new(first), rest), line, &depths)
    }

    pub(super) fn comparison(&mut self) -> Option<ComparisonOperator> {
        let comparison = match self.peek() {
            Token::Operator("==") => ComparisonOperator::Equal,
            Token::Operator("!=") => ComparisonOperator::NotEqual,
            Token::Operator("<") => ComparisonOperator::Less,
            Token::Operator("<=") => ComparisonOperator::LessOrEqual,
            Token::Operator(">") => ComparisonOperator::Greater,
            Token::Operator(">=") => ComparisonOperator::GreaterOrEqual,
            Token::Name(name) if name == "in" => ComparisonOperator::In,
            Token::Name(name)
                if name == "not" && matches!(self.look(), Token::Name(after) if after == "in") =>
            {
                self.next();
                ComparisonOperator::NotIn
            }
            _ => return None,
        };
        self.next();
        Some(comparison)
    }

    pub(super) fn chain(
        &mut self,
        operators: &[(&str, Operator)],
        operand: fn(&mut Self) -> Parsed,
    ) -> Parsed {
        let line = self.line();
        let mut left = operand(self)?;
        while let Some((_, operator)) = operators.iter().find(|(text, _)| self.is_operator(text)) {
            self.next();
            let right = operand(self)?;
            let depths = [left.depth, right.depth];
            left = self.expr(ExprKind::Binary(*operator, Box::new((left, right))), line, &depths)?;
        }
        Ok(left)
    }

    pub(super) fn sum(&mut self) -> Parsed {
        self.chain(&[("+", Operator::Add), ("-", Operator::Subtract)], Self::concat)
    }

    pub(super) fn concat(&mut self) -> Parsed {
        let line = self.line();
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_operator("~") {
            parts.push(self.product()?);
        }
        let depths: Vec<u16> = parts.iter().map(|part| part.depth).collect();
        self.expr(ExprKind::Concat(parts), line, &depths)
    }

    pub(super) fn product(&mut self) -> Parsed {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Modulo),
        ];
        self.chain(&operators, Self::power)
    }

    pub(super) fn power(&mut self) -> Parsed {
        self.chain(&[("**", Operator::Power)], Self::unary)
    }

    pub(super) fn unary(&mut self) -> Parsed {
        let signed = self.signed()?;
        self.filters(signed)
    }

    /// Signs bind tighter than filters: `-2 | abs` is `(-2) | abs`.
    pub(super) fn signed(&mut self) -> Parsed {
        let line = self.line();
        let node = if self.skip_operator("-") {
            let inner = self.nested(Self::signed)?;
            let depth = inner.depth;
            self.expr(ExprKind::Negative(Box::new(inner)), line, &[depth])?
        } else if self.skip_operator("+") {
            let inner = self.nested(Self::signed)?;
            let depth = inner.depth;
            self.expr(ExprKind::Positive(Box::new(inner)), line, &[depth])?
        } else {
            self.primary()?
        };
        self.postfix(node)
    }

    pub(super) fn primary(&mut self) -> Parsed {
        let line = self.line();
        let kind = match self.peek().clone() {
            Token::Name(name) => {
                self.next();
                match name.as_str() {
                    "true" | "True" => ExprKind::Bool(true),
                    "false" | "False" => ExprKind::Bool(false),
                    "none" | "None" => ExprKind::None,
                    _ => {
                        let name: Arc<str> = name.into();
                        self.names.push(Arc::clone(&name));
                        ExprKind::Name(name)
                    }
                }
            }
            Token::Text(mut text) => {
                self.next();
                while let Token::Text(more) = self.peek() {
                    text.push_str(more);
                    self.next();
                }
                ExprKind::Text(text)
            }
            Token::Int(number) => {
                self.next();
                ExprKind::Int(number)
            }
            Token::Float(number) => {
                self.next();
                ExprKind::Float(number)
            }
            Token::Operator("(") => {
                self.next();
                let inner = if self.is_operator(")") {
                    self.tuple_of(Vec::new(), line)?
                } else {
                    self.tuple(true, None)?
                };
                self.expect_operator(")")?;
                return Ok(inner);
            }
            Token::Operator("[") => {
                self.next();
                let items = self.items("]", Self::expression)?;
                let depths: Vec<u16> = items.iter().map(|item| item.depth).collect();
                return self.expr(ExprKind::List(items), line, &depths);
            }
            Token::Operator("{") => {
                self.next();
                let pairs = self.items("}", |this| {
                    let key = this.expression()?;
                    this.expect_operator(":")?;
                    Ok((key, this.expression()?))
                })?;
                let depths: Vec<u16> =
                    pairs.iter().flat_map(|(key, value)| [key.depth, value.depth]).collect();
                return self.expr(ExprKind::Dict(pairs), line, &depths);
            }
            _ => return self.unexpected("an expression"),
        };
        self.expr(kind, line, &[])
    }

    /// Items with commas between them, up to `close`, which is taken; one comma may stand at the end.
    pub(super) fn items<T>(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> RenderResult<T>,
    ) -> RenderResult<Vec<T>> {
        let mut items = Vec::new();
        while !self.is_operator(close) {
            if !items.is_empty() {
                self.expect_operator(",")?;
            }
            if self.is_operator(close) {
                break;
            }
            items.push(item(self)?);
        }
        self.expect_operator(close)?;
        Ok(items)
    }

    pub(super) fn postfix(&mut self, mut node: Expr) -> Parsed {
        loop {
            node = if self.is_operator(".") || self.is_operator("[") {
                self.subscript(node)?
            } else if self.is_operator("(") {
                self.call(node)?
            } else {
                return Ok(node);
            };
        }
    }

    pub(super) fn filters(&mut self, mut node: Expr) -> Parsed {
        loop {
            node = if self.is_operator("|") {
                match self.filter(Some(node), false)? {
                    Some(node) => node,
                    None => return self.unexpected("a filter"),
                }
            } else if self.is_name("is") {
                self.test(node)?
            } else if self.is_operator("(") {
                self.call(node)?
            } else {
                return Ok(node);
            };
        }
    }

    pub(super) fn subscript(&mut self, node: Expr) -> Parsed {
        let line = self.line();
        let depth = node.depth;
        if self.skip_operator(".") {
            return match self.next() {
                Token::Name(name) => self.expr(ExprKind::Attribute(Box::new(node), name), line, &[depth]),
                Token::Int(index) => {
                    let index = self.expr(ExprKind::Int(index), line, &[])?;
                    self.expr(ExprKind::Item(Box::new((node, index))), line, &[depth])
                }
                _ => self.fail("expected name or number"),
            };
        }
        self.expect_operator("[")?;
        let mut parts = Vec::new();
        while !self.is_operator("]") {
            if !parts.is_empty() {
                self.expect_operator(",")?;
            }
            parts.push(self.subscribed()?);
        }
        self.expect_operator("]")?;
        let key = match parts.pop() {
            Some(only) if parts.is_empty() => only,
            Some(last) => {
                parts.push(last);
                self.tuple_of(parts, line)?
            }
            None => self.tuple_of(parts, line)?,
        };
        let depths = [depth, key.depth];
        self.expr(ExprKind::Item(Box::new((node, key))), line, &depths)
    }

    pub(super) fn subscribed(&mut self) -> Parsed {
        let line = self.line();
        let ends = |this: &Self| this.is_operator("]") || this.is_operator(",");
        let mut parts = [None, None, None];
        if !self.is_operator(":") {
            let first = self.expression()?;
            if !self.is_operator(":") {
                return Ok(first);
            }
            parts[0] = Some(first);
        }
        self.expect_operator(":")?;
        if !self.is_operator(":") && !ends(self) {
            parts[1] = Some(self.expression()?);
        }
        if self.skip_operator(":") && !ends(self) {
            parts[2] = Some(self.expression()?);
        }
        let depths: Vec<u16> = parts.iter().flatten().map(|part| part.depth).collect();
        self.expr(ExprKind::Slice(Box::new(parts)), line, &depths)
    }

    pub(super) fn call(&mut self, node: Expr) -> Parsed {
        let line = self.line();
        let (arguments, depth) = self.arguments()?;
        let depths = [node.depth, depth];
        self.expr(ExprKind::Call(Box::new((node, arguments))), line, &depths)
    }

    /// Arguments in brackets, and how deep the deepest is.
    pub(super) fn arguments(&mut self) -> RenderResult<(Arguments, u16)> {
        self.expect_operator("(")?;
        let mut arguments = Arguments::default();
        let mut depth = 0;
        let mut first = true;
        while !self.is_operator(")") {
            if !first {
                self.expect_operator(",")?;
                if self.is_operator(")") {
                    break;
                }
            }
            first = false;
            let is_sound;
            if self.skip_operator("*") {
                is_sound = arguments.more.is_none() && arguments.more_named.is_none();
                let value = self.expression()?;
                depth = depth.max(value.depth);
                arguments.more = Some(value);
            } else if self.skip_operator("**") {
                is_sound = arguments.more_named.is_none();
                let value = self.expression()?;
                depth = depth.max(value.depth);
                arguments.more_named = Some(value);
            } else if matches!(self.peek(), Token::Name(_)) && matches!(self.look(), Token::Operator("=")) {
                is_sound = arguments.more_named.is_none();
                let name = self.name()?;
                self.next();
                let value = self.expression()?;
                depth = depth.max(value.depth);
                if arguments.named.len() >= MOST_NAMED {
                    return self.fail(format!("a call has more than {MOST_NAMED} named arguments"));
                }
                if arguments.named.iter().any(|(known, _)| *known == name) {
                    return self.fail(format!("keyword argument repeated: {name}"));
                }
                arguments.named.push((name, value));
            } else {
                is_sound =
                    arguments.more.is_none() && arguments.more_named.is_none() && arguments.named.is_empty();
                let value = self.expression()?;
                depth = depth.max(value.depth);
                arguments.positional.push(value);
            }
            if !is_sound {
                return self.fail("invalid syntax for function call expression");
            }
        }
        self.expect_operator(")")?;
        Ok((arguments, depth))
    }

    /// A chain of filters; the first stands without `|` where `starts_inline`. `None` where there is no filter.
    pub(super) fn filter(
        &mut self,
        mut node: Option<Expr>,
        mut starts_inline: bool,
    ) -> RenderResult<Option<Expr>> {
        while starts_inline || self.is_operator("|") {
            if !starts_inline {
                self.next();
            }
            starts_inline = false;
            let line = self.line();
            let name = self.dotted_name()?;
            let (arguments, depth) =
                if self.is_operator("(") { self.arguments()? } else { (Arguments::default(), 0) };
            let depths = [node.as_ref().map_or(0, |node| node.depth), depth];
            let kind = ExprKind::Filter(node.map(Box::new), name, Box::new(arguments));
            node = Some(self.expr(kind, line, &depths)?);
        }
        Ok(node)
    }

    pub(super) fn dotted_name(&mut self) -> RenderResult<String> {
        let mut name = self.name()?;
        while self.skip_operator(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Ok(name)
    }

    pub(super) fn test(&mut self, node: Expr) -> Parsed {
        let line = self.line();
        self.expect_name("is")?;
        let is_negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let takes_operand = match self.peek() {
            Token::Name(word) => !["else", "or", "and"].contains(&word.as_str()),
            Token::Text(_) | Token::Int(_) | Token::Float(_) => true,
            Token::Operator(operator) => ["[", "{"].contains(operator),
            _ => false,
        };
        let (arguments, depth) = if self.is_operator("(") {
            self.arguments()?
        } else if takes_operand {
            if self.is_name("is") {
                return self.fail("You cannot chain multiple tests with is");
            }
            let operand = self.nested(Self::primary)?;
            let operand = self.postfix(operand)?;
            let depth = operand.depth;
            (Arguments { positional: vec![operand], ..Arguments::default() }, depth)
        } else {
            (Arguments::default(), 0)
        };
        let depths = [node.depth, depth];
        let test = self.expr(ExprKind::Test(Box::new(node), name, Box::new(arguments)), line, &depths)?;
        if is_negated {
            let depth = test.depth;
            return self.expr(ExprKind::Not(Box::new(test)), line, &[depth]);
        }
        Ok(test)
    }
}
