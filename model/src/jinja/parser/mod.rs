//! Tokens → the tree of a template, by Jinja's grammar; `{% break %}`, `{% continue %}` and `{% generation %}` are in it, as
//! transformers has them. Brackets, blocks and chains are bounded in depth, so that neither this nor what walks the
//! tree needs more stack than a thread has.
//!
//! ```text
//! mod      statements        expressions   what stands between {{ and }}        cursor   a place among the tokens
//! ```

mod cursor;
mod expressions;

use std::sync::Arc;

use self::cursor::Parser;
use super::ast::{AssignmentTarget, Expr, ExprKind, For, Macro, Node};
use super::fault::{RenderResult, TemplateFault};
use super::lexer::{Token, tokens};

/// The tree of a template's text. Error: a syntax error with its line.
pub(super) fn parse(source: &str) -> RenderResult<Vec<Node>> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0, nested: 0, loops: 0, names: Vec::new() };
    parser.body(&[])
}

impl Parser {
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
}
