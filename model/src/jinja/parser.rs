//! Tokens → the tree of a template, by Jinja's grammar; `{% break %}`, `{% continue %}` and `{% generation %}` are in it, as
//! transformers has them. Brackets, blocks and chains are bounded in depth, so that neither this nor what walks the
//! tree needs more stack than a thread has.
//!
//! Past 400 lines: one grammar, one function a rule.

use std::sync::Arc;

use super::ast::{
    Arguments, AssignmentTarget, ComparisonOperator, Expr, ExprKind, For, Macro, Node, Operator,
};
use super::fault::{RenderResult, TemplateFault};
use super::lexer::{Lexeme, Token, tokens};

/// Brackets, blocks and signs in one another. Python gives up at about as many.
const MOST_NESTED: usize = 60;
/// Depth of an expression's tree, as chains like `a.b.c` and `1 + 1 + 1` make it.
const MOST_DEPTH: u16 = 120;

/// Named arguments of one call.
const MOST_NAMED: usize = 1000;

/// The tree of a template's text. Error: a syntax error with its line.
pub(super) fn parse(source: &str) -> RenderResult<Vec<Node>> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0, nested: 0, loops: 0, names: Vec::new() };
    parser.body(&[])
}

struct Parser {
    tokens: Vec<Lexeme>,
    at: usize,
    nested: usize,
    /// Loops around this place, within one macro.
    loops: usize,
    /// Every name that was read, in order: what a macro or a loop asks for.
    names: Vec<Arc<str>>,
}

type Parsed = RenderResult<Expr>;

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |lexeme| &lexeme.token)
    }

    fn look(&self) -> &Token {
        self.tokens.get(self.at + 1).map_or(&Token::End, |lexeme| &lexeme.token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |lexeme| lexeme.line)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    fn fail<T>(&self, message: impl Into<String>) -> RenderResult<T> {
        Err(TemplateFault::syntax(message, self.line()))
    }

    fn unexpected<T>(&self, wanted: &str) -> RenderResult<T> {
        self.fail(format!("expected {wanted}, got {}", describe(self.peek())))
    }

    fn is_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), Token::Operator(found) if *found == operator)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if found == name)
    }

    fn skip_operator(&mut self, operator: &str) -> bool {
        let is = self.is_operator(operator);
        if is {
            self.next();
        }
        is
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let is = self.is_name(name);
        if is {
            self.next();
        }
        is
    }

    fn expect_operator(&mut self, operator: &str) -> RenderResult<()> {
        if self.skip_operator(operator) { Ok(()) } else { self.unexpected(&format!("'{operator}'")) }
    }

    fn expect_name(&mut self, name: &str) -> RenderResult<()> {
        if self.skip_name(name) { Ok(()) } else { self.unexpected(&format!("'{name}'")) }
    }

    fn expect(&mut self, token: &Token, wanted: &str) -> RenderResult<()> {
        if self.peek() != token {
            return self.unexpected(wanted);
        }
        self.next();
        Ok(())
    }

    fn name(&mut self) -> RenderResult<String> {
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
    fn nested<T>(&mut self, rule: impl FnOnce(&mut Self) -> RenderResult<T>) -> RenderResult<T> {
        if self.nested >= MOST_NESTED {
            return self.fail(format!("it is nested more than {MOST_NESTED} deep"));
        }
        self.nested += 1;
        let result = rule(self);
        self.nested -= 1;
        result
    }

    fn expr<'e>(&self, kind: ExprKind, line: u32, parts: impl IntoIterator<Item = &'e u16>) -> Parsed {
        let depth = parts.into_iter().copied().max().unwrap_or(0) + 1;
        if depth > MOST_DEPTH {
            return self.fail(format!("an expression is more than {MOST_DEPTH} operations deep"));
        }
        Ok(Expr { kind, line, depth })
    }

    // Statements.

    /// Text and statements up to one of `ends`, which is not taken; to the end of the template where there are none.
    fn body(&mut self, ends: &[&str]) -> RenderResult<Vec<Node>> {
        let mut body = Vec::new();
        loop {
            match self.next() {
                Token::Data(text) => body.push(Node::Text(text)),
                Token::VariableBegin => {
                    body.push(Node::Print(self.tuple(true, None)?));
                    self.expect(&Token::VariableEnd, "the end of the print statement")?;
                }
                Token::BlockBegin => {
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    self.nested(|this| this.statement(&mut body))?;
                    self.expect(&Token::BlockEnd, "the end of the statement block")?;
                }
                _ if ends.is_empty() => return Ok(body),
                _ => {
                    return self.fail(format!(
                        "unexpected end of template, which lacks {{% {} %}}",
                        ends.join(" or ")
                    ));
                }
            }
        }
    }

    /// The body of a statement: to one of `ends`, which is not taken.
    fn block(&mut self, ends: &[&str]) -> RenderResult<Vec<Node>> {
        self.skip_operator(":");
        self.expect(&Token::BlockEnd, "the end of the statement block")?;
        self.body(ends)
    }

    /// The same, with its only end taken.
    fn block_to(&mut self, end: &str) -> RenderResult<Vec<Node>> {
        let body = self.block(&[end])?;
        self.next();
        Ok(body)
    }

    fn statement(&mut self, body: &mut Vec<Node>) -> RenderResult<()> {
        let line = self.line();
        let tag = self.name()?;
        let node = match tag.as_str() {
            "if" => self.if_statement()?,
            "for" => self.for_statement(line)?,
            "set" => self.set_statement()?,
            "with" => self.with_statement()?,
            "macro" => {
                let name: Arc<str> = self.name()?.into();
                let (parameters, defaults) = self.signature()?;
                Node::Macro(Box::new(self.macro_body(name, parameters, defaults, "endmacro")?))
            }
            "call" => {
                let (parameters, defaults) =
                    if self.is_operator("(") { self.signature()? } else { (Vec::new(), Vec::new()) };
                let call = self.expression()?;
                if !matches!(call.kind, ExprKind::Call(_)) {
                    return Err(TemplateFault::syntax("expected call", line));
                }
                Node::Call(call, Box::new(self.macro_body("caller".into(), parameters, defaults, "endcall")?))
            }
            "filter" => {
                let filter = self.filter(None, true)?;
                let Some(filter) = filter else { return self.unexpected("a filter") };
                Node::FilterBlock(filter, self.block_to("endfilter")?)
            }
            "block" => {
                let name = self.name()?;
                while self.skip_name("scoped") || self.skip_name("required") {}
                let body = self.block_to("endblock")?;
                self.skip_name(&name);
                Node::Scope(body)
            }
            // Marks the assistant's tokens for masks, which are not made here.
            "generation" => Node::Scope(self.block_to("endgeneration")?),
            "autoescape" => {
                self.expression()?;
                Node::Scope(self.block_to("endautoescape")?)
            }
            "print" => {
                while *self.peek() != Token::BlockEnd {
                    body.push(Node::Print(self.expression()?));
                    if !self.skip_operator(",") {
                        break;
                    }
                }
                return Ok(());
            }
            "break" | "continue" if self.loops == 0 => {
                return Err(TemplateFault::syntax(format!("'{tag}' outside loop"), line));
            }
            "break" => Node::Break,
            "continue" => Node::Continue,
            "include" | "import" | "extends" | "from" => {
                while *self.peek() != Token::BlockEnd && *self.peek() != Token::End {
                    self.next();
                }
                let name = match tag.as_str() {
                    "include" => "include",
                    "extends" => "extends",
                    "from" => "from",
                    _ => "import",
                };
                Node::Other(name, line)
            }
            _ => return Err(TemplateFault::syntax(format!("Encountered unknown tag '{tag}'."), line)),
        };
        body.push(node);
        Ok(())
    }

    fn if_statement(&mut self) -> RenderResult<Node> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, None)?;
            let body = self.block(&["elif", "else", "endif"])?;
            branches.push((test, body));
            match self.name()?.as_str() {
                "elif" => {}
                "else" => return Ok(Node::If(branches, self.block_to("endif")?)),
                _ => return Ok(Node::If(branches, Vec::new())),
            }
        }
    }

    fn for_statement(&mut self, line: u32) -> RenderResult<Node> {
        let target = self.target(Some("in"))?;
        self.expect_name("in")?;
        let iterable = self.tuple(false, Some("recursive"))?;
        let names = self.names.len();
        let test = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let is_recursive = self.skip_name("recursive");
        self.loops += 1;
        let body = self.block(&["endfor", "else"]);
        self.loops -= 1;
        let body = body?;
        let otherwise = if self.name()? == "else" { self.block_to("endfor")? } else { Vec::new() };
        let uses_loop = self.names[names..].iter().any(|name| &**name == "loop");
        Ok(Node::For(Box::new(For {
            target,
            iterable,
            test,
            is_recursive,
            uses_loop,
            body,
            otherwise,
            line,
        })))
    }

    fn set_statement(&mut self) -> RenderResult<Node> {
        let target = self.target(None)?;
        if self.skip_operator("=") {
            return Ok(Node::Set(target, self.tuple(true, None)?));
        }
        let filter = self.filter(None, false)?;
        Ok(Node::SetBlock(target, filter, self.block_to("endset")?))
    }

    fn with_statement(&mut self) -> RenderResult<Node> {
        let mut values = Vec::new();
        while *self.peek() != Token::BlockEnd {
            if !values.is_empty() {
                self.expect_operator(",")?;
            }
            let target = self.target(None)?;
            self.expect_operator("=")?;
            values.push((target, self.expression()?));
        }
        Ok(Node::With(values, self.block_to("endwith")?))
    }

    fn macro_body(
        &mut self,
        name: Arc<str>,
        parameters: Vec<Arc<str>>,
        defaults: Vec<Expr>,
        end: &str,
    ) -> RenderResult<Macro> {
        let names = self.names.len();
        let loops = std::mem::take(&mut self.loops);
        let body = self.block_to(end);
        self.loops = loops;
        let uses = |wanted: &str| self.names[names..].iter().any(|name| &**name == wanted);
        let (uses_varargs, uses_kwargs, uses_caller) = (uses("varargs"), uses("kwargs"), uses("caller"));
        Ok(Macro { name, parameters, defaults, body: body?, uses_varargs, uses_kwargs, uses_caller })
    }

    fn signature(&mut self) -> RenderResult<(Vec<Arc<str>>, Vec<Expr>)> {
        let (mut parameters, mut defaults) = (Vec::new(), Vec::new());
        self.expect_operator("(")?;
        while !self.is_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let name = self.name()?;
            self.check_target(&name)?;
            if self.skip_operator("=") {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return self.fail("non-default argument follows default argument");
            }
            parameters.push(name.into());
        }
        self.expect_operator(")")?;
        Ok((parameters, defaults))
    }

    /// A target of an assignment: names, with commas between them a tuple.
    fn target(&mut self, end: Option<&str>) -> RenderResult<AssignmentTarget> {
        let mut targets = vec![self.one_target()?];
        let mut is_tuple = false;
        while self.skip_operator(",") {
            is_tuple = true;
            if self.ends_tuple(end) || self.is_operator("=") {
                break;
            }
            targets.push(self.one_target()?);
        }
        match targets.pop() {
            Some(only) if !is_tuple => Ok(only),
            Some(last) => {
                targets.push(last);
                Ok(AssignmentTarget::Tuple(targets))
            }
            None => self.unexpected("a name"),
        }
    }

    fn one_target(&mut self) -> RenderResult<AssignmentTarget> {
        if self.skip_operator("(") {
            let target = self.nested(|this| this.target(None))?;
            self.expect_operator(")")?;
            return Ok(target);
        }
        let line = self.line();
        let name = self.name()?;
        if self.skip_operator(".") {
            return Ok(AssignmentTarget::Attribute(name.into(), self.name()?, line));
        }
        self.check_target(&name)?;
        Ok(AssignmentTarget::Name(name.into()))
    }

    fn check_target(&self, name: &str) -> RenderResult<()> {
        if ["true", "false", "none", "True", "False", "None"].contains(&name) {
            return self.fail("can't assign to 'const'");
        }
        Ok(())
    }

    // Expressions, from the loosest binding to the tightest.

    fn ends_tuple(&self, end: Option<&str>) -> bool {
        matches!(self.peek(), Token::VariableEnd | Token::BlockEnd)
            || self.is_operator(")")
            || end.is_some_and(|end| self.is_name(end))
    }

    /// An expression, or several with commas between them.
    fn tuple(&mut self, with_condition: bool, end: Option<&str>) -> Parsed {
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

    fn tuple_of(&self, items: Vec<Expr>, line: u32) -> Parsed {
        let depths: Vec<u16> = items.iter().map(|item| item.depth).collect();
        self.expr(ExprKind::Tuple(items), line, &depths)
    }

    fn expression(&mut self) -> Parsed {
        self.nested(Self::conditional)
    }

    fn conditional(&mut self) -> Parsed {
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

    fn or(&mut self) -> Parsed {
        let line = self.line();
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?;
            let depths = [left.depth, right.depth];
            left = self.expr(ExprKind::Or(Box::new((left, right))), line, &depths)?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed {
        let line = self.line();
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?;
            let depths = [left.depth, right.depth];
            left = self.expr(ExprKind::And(Box::new((left, right))), line, &depths)?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed {
        let line = self.line();
        if self.skip_name("not") {
            let inner = self.nested(Self::not)?;
            let depth = inner.depth;
            return self.expr(ExprKind::Not(Box::new(inner)), line, &[depth]);
        }
        self.compare()
    }

    fn compare(&mut self) -> Parsed {
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

    fn comparison(&mut self) -> Option<ComparisonOperator> {
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

    fn chain(&mut self, operators: &[(&str, Operator)], operand: fn(&mut Self) -> Parsed) -> Parsed {
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

    fn sum(&mut self) -> Parsed {
        self.chain(&[("+", Operator::Add), ("-", Operator::Subtract)], Self::concat)
    }

    fn concat(&mut self) -> Parsed {
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

    fn product(&mut self) -> Parsed {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Modulo),
        ];
        self.chain(&operators, Self::power)
    }

    fn power(&mut self) -> Parsed {
        self.chain(&[("**", Operator::Power)], Self::unary)
    }

    fn unary(&mut self) -> Parsed {
        let signed = self.signed()?;
        self.filters(signed)
    }

    /// Signs bind tighter than filters: `-2 | abs` is `(-2) | abs`.
    fn signed(&mut self) -> Parsed {
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

    fn primary(&mut self) -> Parsed {
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
    fn items<T>(
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

    fn postfix(&mut self, mut node: Expr) -> Parsed {
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

    fn filters(&mut self, mut node: Expr) -> Parsed {
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

    fn subscript(&mut self, node: Expr) -> Parsed {
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

    fn subscribed(&mut self) -> Parsed {
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

    fn call(&mut self, node: Expr) -> Parsed {
        let line = self.line();
        let (arguments, depth) = self.arguments()?;
        let depths = [node.depth, depth];
        self.expr(ExprKind::Call(Box::new((node, arguments))), line, &depths)
    }

    /// Arguments in brackets, and how deep the deepest is.
    fn arguments(&mut self) -> RenderResult<(Arguments, u16)> {
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
    fn filter(&mut self, mut node: Option<Expr>, mut starts_inline: bool) -> RenderResult<Option<Expr>> {
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

    fn dotted_name(&mut self) -> RenderResult<String> {
        let mut name = self.name()?;
        while self.skip_operator(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Ok(name)
    }

    fn test(&mut self, node: Expr) -> Parsed {
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
