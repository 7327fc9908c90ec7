//! Runs a template's tree.
//!
//! Scopes are Jinja's: each turn of a loop, each `with`, block, macro and `call` has one of its own, `if` has none; a macro
//! sees the scope that it was written in, as it is when it is called.
//!
//! Names are found in `interpreter/scopes.rs`, what values have in `attributes.rs`, what every template may call in `functions.rs`. Past 400
//! lines: one arm for each kind of statement and expression, which run each other.

mod attributes;
mod functions;
mod scopes;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use self::scopes::Scope;
use super::ast::{Arguments, Expr, ExprKind, For, Macro, Node};
use super::call_arguments::CallArguments;
use super::context::RenderContext;
use super::fault::{Held, RenderResult, TemplateFault, fail, room, step};
use super::text_buffer::TextBuffer;
use super::value::{LoopContext, TemplateValue, sequence};
use super::{checks, filters, methods, names, operators, print, subscripts};

/// Statements, expressions and macros in one another, while they run. Python gives up at about as many.
const MOST_DEPTH: usize = 350;
/// What an entry of one of the tables below takes, roughly.
const ENTRY_BYTES: usize = 256;

/// Gives the time in a format of Python's strftime.
pub(crate) type Clock = dyn Fn(&str) -> Result<String, String>;

/// Where a body's run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// A running template.
pub(crate) struct Interpreter<'t> {
    globals: Vec<(String, TemplateValue)>,
    clock: &'t Clock,
    scopes: Vec<Scope>,
    namespaces: Vec<Vec<(TemplateValue, TemplateValue)>>,
    macros: Vec<(&'t Macro, usize)>,
    cyclers: Vec<(Vec<TemplateValue>, usize)>,
    joiners: Vec<(TemplateValue, bool)>,
    recursions: Vec<(&'t For, usize)>,
    depth: usize,
    tables: Held,
}

impl<'t> Interpreter<'t> {
    pub(super) fn new(globals: Vec<(String, TemplateValue)>, clock: &'t Clock) -> Self {
        let root = Scope { parent: None, names: Vec::new(), is_kept: true };
        Self {
            globals,
            clock,
            scopes: vec![root],
            namespaces: Vec::new(),
            macros: Vec::new(),
            cyclers: Vec::new(),
            joiners: Vec::new(),
            recursions: Vec::new(),
            depth: 0,
            tables: Held::default(),
        }
    }

    /// The text of the whole template.
    pub(super) fn run(&mut self, body: &'t [Node]) -> RenderResult<String> {
        let mut out = TextBuffer::default();
        self.body(body, 0, &mut out)?;
        Ok(out.into_string())
    }

    fn deeper<T>(&mut self, run: impl FnOnce(&mut Self) -> RenderResult<T>) -> RenderResult<T> {
        step(1)?;
        if self.depth >= MOST_DEPTH {
            return fail(format!(
                "RecursionError: it runs more than {MOST_DEPTH} deep: a macro that calls itself without end?"
            ));
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    // Statements.

    fn body(&mut self, nodes: &'t [Node], scope: usize, out: &mut TextBuffer) -> RenderResult<Flow> {
        self.deeper(|this| {
            for node in nodes {
                let flow = this.node(node, scope, out)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
            }
            Ok(Flow::Next)
        })
    }

    fn node(&mut self, node: &'t Node, scope: usize, out: &mut TextBuffer) -> RenderResult<Flow> {
        step(1)?;
        match node {
            Node::Text(text) => out.push(text)?,
            Node::Print(expr) => {
                let value = self.eval(expr, scope)?;
                print::print(self, &value, out).map_err(|fault| fault.at(expr.line))?;
            }
            Node::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.eval(test, scope)?.is_true() {
                        return self.body(body, scope, out);
                    }
                }
                return self.body(otherwise, scope, out);
            }
            Node::For(node) => {
                let iterable = self.eval(&node.iterable, scope)?;
                self.for_loop(node, &iterable, scope, out, 0).map_err(|fault| fault.at(node.line))?;
            }
            Node::Set(target, expr) => {
                let value = self.eval(expr, scope)?;
                self.assign(target, value, scope).map_err(|fault| fault.at(expr.line))?;
            }
            Node::SetBlock(target, filter, body) => {
                let text = self.captured(body, scope)?;
                let value = match filter {
                    Some(filter) => self.filter_chain(filter, &text, scope)?,
                    None => text,
                };
                self.assign(target, value, scope)?;
            }
            Node::With(values, body) => {
                let mut evaluated = Vec::with_capacity(values.len());
                for (_, expr) in values {
                    evaluated.push(self.eval(expr, scope)?);
                }
                return self.scoped(scope, |this, inner| {
                    for ((target, _), value) in values.iter().zip(evaluated) {
                        this.assign(target, value, inner)?;
                    }
                    this.body(body, inner, out)
                });
            }
            Node::Macro(found) => {
                let value = self.macro_value(found, scope)?;
                self.set(scope, &found.name, value);
            }
            Node::Call(call, caller) => {
                let caller = self.macro_value(caller, scope)?;
                let ExprKind::Call(parts) = &call.kind else { return fail("expected call") };
                let value = self
                    .call_expression(&parts.0, &parts.1, scope, Some(caller))
                    .map_err(|fault| fault.at(call.line))?;
                print::print(self, &value, out)?;
            }
            Node::FilterBlock(filter, body) => {
                let text = self.captured(body, scope)?;
                let value = self.filter_chain(filter, &text, scope)?;
                print::print(self, &value, out)?;
            }
            Node::Scope(body) => return self.scoped(scope, |this, inner| this.body(body, inner, out)),
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::Other(tag, line) => {
                let message = format!("{{% {tag} %}}: a chat template has no other templates to load");
                return Err(TemplateFault::failed(message).at(*line));
            }
        }
        Ok(Flow::Next)
    }

    /// The text that a body prints.
    fn captured(&mut self, body: &'t [Node], scope: usize) -> RenderResult<TemplateValue> {
        let mut text = TextBuffer::default();
        self.scoped(scope, |this, inner| this.body(body, inner, &mut text))?;
        text.into_value()
    }

    fn for_loop(
        &mut self,
        node: &'t For,
        iterable: &TemplateValue,
        scope: usize,
        out: &mut TextBuffer,
        depth0: usize,
    ) -> RenderResult<()> {
        let mut items = iterable.items()?;
        let tests_late = !node.uses_loop && !node.is_recursive;
        if let (Some(test), false) = (&node.test, tests_late) {
            let mut kept = Vec::new();
            for item in &items.items {
                let holds = self.scoped(scope, |this, inner| {
                    this.assign(&node.target, item.clone(), inner)?;
                    Ok(this.eval(test, inner)?.is_true())
                })?;
                if holds {
                    kept.push(item.clone());
                }
            }
            items = sequence(kept)?;
        }
        let recursive = if node.is_recursive {
            self.tables.grow(ENTRY_BYTES)?;
            self.recursions.push((node, scope));
            Some(self.recursions.len() - 1)
        } else {
            None
        };
        let state = Rc::new(LoopContext {
            items: Rc::clone(&items),
            index: Cell::new(0),
            depth0,
            changed: RefCell::new(None),
            recursive,
        });
        let name: Arc<str> = Arc::from("loop");
        let mut ran = false;
        for (index, item) in items.items.iter().enumerate() {
            state.index.set(index);
            let inner = self.open(scope);
            let mut turn = || -> RenderResult<Option<Flow>> {
                self.assign(&node.target, item.clone(), inner)?;
                if let (Some(test), true) = (&node.test, tests_late)
                    && !self.eval(test, inner)?.is_true()
                {
                    return Ok(None);
                }
                if !tests_late {
                    self.set(inner, &name, TemplateValue::Loop(Rc::clone(&state)));
                }
                self.body(&node.body, inner, out).map(Some)
            };
            let flow = turn();
            self.close(inner);
            match flow? {
                None => continue,
                // As in Jinja, `else` is for a loop of which no turn came to its end.
                Some(Flow::Break) => break,
                Some(Flow::Continue) => {}
                Some(Flow::Next) => ran = true,
            }
        }
        if !ran {
            self.scoped(scope, |this, inner| this.body(&node.otherwise, inner, out))?;
        }
        Ok(())
    }

    // Expressions.

    /// The value of an expression.
    fn eval(&mut self, expr: &'t Expr, scope: usize) -> RenderResult<TemplateValue> {
        match &expr.kind {
            ExprKind::Name(name) => {
                step(1)?;
                Ok(self
                    .find(scope, name)
                    .unwrap_or_else(|| TemplateValue::undefined(format!("'{name}' is undefined"))))
            }
            ExprKind::Text(text) => TemplateValue::text(text.as_str()),
            ExprKind::None => Ok(TemplateValue::None),
            ExprKind::Bool(truth) => Ok(TemplateValue::Bool(*truth)),
            ExprKind::Int(number) => Ok(TemplateValue::Int(*number)),
            ExprKind::Float(number) => Ok(TemplateValue::Float(*number)),
            _ => self.deeper(|this| this.compound(expr, scope)).map_err(|fault| fault.at(expr.line)),
        }
    }

    #[inline(never)]
    fn compound(&mut self, expr: &'t Expr, scope: usize) -> RenderResult<TemplateValue> {
        match &expr.kind {
            ExprKind::Attribute(object, name) => {
                let object = self.eval(object, scope)?;
                self.attribute(&object, name)
            }
            ExprKind::Item(parts) => self.item_expression(&parts.0, &parts.1, scope),
            ExprKind::Call(parts) => self.call_expression(&parts.0, &parts.1, scope, None),
            ExprKind::Filter(Some(inner), name, arguments) => {
                let value = self.eval(inner, scope)?;
                let args = self.arguments(arguments, scope)?;
                filters::call(self, name, &value, args)
            }
            ExprKind::Filter(None, ..) => fail("a filter stands without a value"),
            ExprKind::Test(inner, name, arguments) => {
                let value = self.eval(inner, scope)?;
                let args = self.arguments(arguments, scope)?;
                checks::call(self, name, &value, args).map(TemplateValue::Bool)
            }
            ExprKind::Binary(operator, sides) => {
                let left = self.eval(&sides.0, scope)?;
                let right = self.eval(&sides.1, scope)?;
                if let (super::ast::Operator::Modulo, Some(template)) = (operator, left.as_str()) {
                    return super::format::percent(self, template, &right);
                }
                operators::arithmetic(*operator, &left, &right)
            }
            ExprKind::Or(sides) => {
                let left = self.eval(&sides.0, scope)?;
                if left.is_true() { Ok(left) } else { self.eval(&sides.1, scope) }
            }
            ExprKind::And(sides) => {
                let left = self.eval(&sides.0, scope)?;
                if left.is_true() { self.eval(&sides.1, scope) } else { Ok(left) }
            }
            ExprKind::Not(inner) => Ok(TemplateValue::Bool(!self.eval(inner, scope)?.is_true())),
            ExprKind::Compare(first, rest) => {
                let mut left = self.eval(first, scope)?;
                for (comparison, right) in rest {
                    let right = self.eval(right, scope)?;
                    if !operators::compare(*comparison, &left, &right)? {
                        return Ok(TemplateValue::Bool(false));
                    }
                    left = right;
                }
                Ok(TemplateValue::Bool(true))
            }
            ExprKind::Concat(parts) => {
                let mut out = TextBuffer::default();
                for part in parts {
                    let value = self.eval(part, scope)?;
                    print::print(self, &value, &mut out)?;
                }
                out.into_value()
            }
            ExprKind::Conditional(parts) => {
                let (test, then, otherwise) = &**parts;
                if self.eval(test, scope)?.is_true() {
                    return self.eval(then, scope);
                }
                match otherwise {
                    Some(otherwise) => self.eval(otherwise, scope),
                    None => Ok(TemplateValue::undefined(format!(
                        "the inline if-expression on line {} evaluated to false and no else section was defined.",
                        expr.line
                    ))),
                }
            }
            ExprKind::List(items) => TemplateValue::list(self.several(items, scope)?),
            ExprKind::Tuple(items) => TemplateValue::tuple(self.several(items, scope)?),
            ExprKind::Dict(pairs) => {
                let mut entries = Vec::with_capacity(pairs.len());
                for (key, value) in pairs {
                    entries.push((self.eval(key, scope)?, self.eval(value, scope)?));
                }
                TemplateValue::dict(entries)
            }
            ExprKind::Negative(inner) => match self.eval(inner, scope)? {
                TemplateValue::Float(number) => Ok(TemplateValue::Float(-number)),
                other => match other.as_int().and_then(i128::checked_neg) {
                    Some(number) => Ok(TemplateValue::Int(number)),
                    None => fail(unary("-", &other)),
                },
            },
            ExprKind::Positive(inner) => match self.eval(inner, scope)? {
                TemplateValue::Float(number) => Ok(TemplateValue::Float(number)),
                other => match other.as_int() {
                    Some(number) => Ok(TemplateValue::Int(number)),
                    None => fail(unary("+", &other)),
                },
            },
            ExprKind::Slice(_) => fail("a slice stands outside of brackets"),
            _ => self.eval(expr, scope),
        }
    }

    fn several(&mut self, items: &'t [Expr], scope: usize) -> RenderResult<Vec<TemplateValue>> {
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            values.push(self.eval(item, scope)?);
        }
        Ok(values)
    }

    #[inline(never)]
    fn item_expression(
        &mut self,
        object: &'t Expr,
        key: &'t Expr,
        scope: usize,
    ) -> RenderResult<TemplateValue> {
        let object = self.eval(object, scope)?;
        let ExprKind::Slice(bounds) = &key.kind else {
            let key = self.eval(key, scope)?;
            return self.item(&object, &key);
        };
        let mut values = [TemplateValue::None, TemplateValue::None, TemplateValue::None];
        for (value, bound) in values.iter_mut().zip(bounds.iter()) {
            if let Some(bound) = bound {
                *value = self.eval(bound, scope)?;
            }
        }
        if let TemplateValue::Undefined(missing) = &object {
            return fail(missing.0.clone());
        }
        let found = subscripts::slice(&object, &values)?;
        Ok(found.unwrap_or_else(|| {
            TemplateValue::undefined(format!("{} has no element slice(…)", methods::described(&object)))
        }))
    }

    fn arguments(&mut self, arguments: &'t Arguments, scope: usize) -> RenderResult<CallArguments> {
        let mut args =
            CallArguments { positional: self.several(&arguments.positional, scope)?, named: Vec::new() };
        for (name, expr) in &arguments.named {
            args.named.push((name.clone(), self.eval(expr, scope)?));
        }
        if let Some(more) = &arguments.more {
            let more = self.eval(more, scope)?.items()?;
            room(more.items.len().saturating_mul(size_of::<TemplateValue>()))?;
            step(more.items.len() as u64 / 8)?;
            args.positional.extend(more.items.iter().cloned());
        }
        if let Some(more) = &arguments.more_named {
            let TemplateValue::Dict(dict) = self.eval(more, scope)? else {
                return fail("argument after ** must be a mapping");
            };
            step(dict.entries.len() as u64)?;
            for (key, value) in &dict.entries {
                let Some(name) = key.as_str() else { return fail("keywords must be strings") };
                args.named.push((name.to_owned(), value.clone()));
            }
        }
        Ok(args)
    }

    #[inline(never)]
    fn call_expression(
        &mut self,
        callee: &'t Expr,
        arguments: &'t Arguments,
        scope: usize,
        caller: Option<TemplateValue>,
    ) -> RenderResult<TemplateValue> {
        let (object, name) = match &callee.kind {
            ExprKind::Attribute(object, name) => (self.eval(object, scope)?, Some(name)),
            _ => (self.eval(callee, scope)?, None),
        };
        let callee = match name {
            Some(name) if !names::has_method(&object, name) => Some(self.attribute(&object, name)?),
            Some(_) => None,
            None => Some(object.clone()),
        };
        if let Some(TemplateValue::Undefined(missing)) = &callee {
            return fail(missing.0.clone());
        }
        let mut args = self.arguments(arguments, scope)?;
        if let Some(caller) = caller {
            args.named.push(("caller".to_owned(), caller));
        }
        match (callee, name) {
            (Some(callee), _) => self.call(&callee, args),
            (None, Some(name)) => methods::call(self, &object, name, args),
            (None, None) => self.call(&object, args),
        }
    }

    fn filter_chain(
        &mut self,
        filter: &'t Expr,
        text: &TemplateValue,
        scope: usize,
    ) -> RenderResult<TemplateValue> {
        let ExprKind::Filter(inner, name, arguments) = &filter.kind else { return self.eval(filter, scope) };
        let value = match inner {
            Some(inner) => self.deeper(|this| this.filter_chain(inner, text, scope))?,
            None => text.clone(),
        };
        let args = self.arguments(arguments, scope)?;
        filters::call(self, name, &value, args).map_err(|fault| fault.at(filter.line))
    }

    // What templates reach of values.

    /// Calls a value.
    fn call(&mut self, callee: &TemplateValue, args: CallArguments) -> RenderResult<TemplateValue> {
        match callee {
            TemplateValue::Undefined(missing) => fail(missing.0.clone()),
            TemplateValue::Function(function) => self.call_function(*function, args),
            TemplateValue::Macro(place) => self.call_macro(*place, args),
            TemplateValue::Method(method) => methods::call(self, &method.value, &method.name, args),
            TemplateValue::Joiner(place) => {
                let (separator, used) = &mut self.joiners[*place];
                if std::mem::replace(used, true) { Ok(separator.clone()) } else { TemplateValue::text("") }
            }
            TemplateValue::Loop(state) => {
                let Some((node, scope)) =
                    state.recursive.and_then(|place| self.recursions.get(place)).copied()
                else {
                    return fail("The loop must have the 'recursive' marker to be called recursively.");
                };
                let [iterable] = args.bind("loop", ["iterable"])?;
                let iterable = iterable.unwrap_or(TemplateValue::None);
                let depth0 = state.depth0 + 1;
                let mut out = TextBuffer::default();
                self.deeper(|this| this.for_loop(node, &iterable, scope, &mut out, depth0))?;
                out.into_value()
            }
            other => fail(format!("'{}' object is not callable", other.type_name())),
        }
    }

    fn macro_value(&mut self, found: &'t Macro, scope: usize) -> RenderResult<TemplateValue> {
        self.tables.grow(ENTRY_BYTES)?;
        let mut ancestor = Some(scope);
        while let Some(place) = ancestor.filter(|place| !self.scopes[*place].is_kept) {
            self.scopes[place].is_kept = true;
            ancestor = self.scopes[place].parent;
        }
        self.macros.push((found, scope));
        Ok(TemplateValue::Macro(self.macros.len() - 1))
    }

    #[inline(never)]
    fn call_macro(&mut self, place: usize, args: CallArguments) -> RenderResult<TemplateValue> {
        let (found, scope) = self.macros[place];
        let mut out = TextBuffer::default();
        self.deeper(|this| {
            this.scoped(scope, |this, inner| {
                this.bind_macro(found, args, inner)?;
                this.body(&found.body, inner, &mut out)
            })
        })?;
        out.into_value()
    }

    fn bind_macro(&mut self, found: &'t Macro, args: CallArguments, inner: usize) -> RenderResult<()> {
        let name = &found.name;
        let CallArguments { positional, mut named } = args;
        step((named.len() * found.parameters.len()) as u64 / 8)?;
        let mut positional = positional.into_iter();
        let first_default = found.parameters.len() - found.defaults.len();
        for (index, parameter) in found.parameters.iter().enumerate() {
            let given = named.iter().position(|(key, _)| **key == **parameter);
            let value = match (positional.next(), given) {
                (Some(_), Some(_)) => {
                    return fail(format!("macro '{name}' got multiple values for argument '{parameter}'"));
                }
                (Some(value), None) => value,
                (None, Some(given)) => named.swap_remove(given).1,
                (None, None) => {
                    match index.checked_sub(first_default).and_then(|at| found.defaults.get(at)) {
                        Some(default) => self.eval(default, inner)?,
                        None => TemplateValue::undefined(format!("parameter '{parameter}' was not provided")),
                    }
                }
            };
            self.set(inner, parameter, value);
        }
        let caller = named.iter().position(|(key, _)| key == "caller").filter(|_| found.uses_caller);
        if found.uses_caller && !found.parameters.iter().any(|name| &**name == "caller") {
            let caller = match caller {
                Some(place) => named.swap_remove(place).1,
                None => TemplateValue::undefined("No caller defined"),
            };
            self.set(inner, &Arc::from("caller"), caller);
        }
        let rest: Vec<TemplateValue> = positional.collect();
        if found.uses_kwargs {
            let mut pairs = Vec::new();
            for (key, value) in named {
                pairs.push((TemplateValue::text(key)?, value));
            }
            let kwargs = TemplateValue::dict(pairs)?;
            self.set(inner, &Arc::from("kwargs"), kwargs);
        } else if let Some((key, _)) = named.first() {
            return fail(format!("macro '{name}' takes no keyword argument '{key}'"));
        }
        if found.uses_varargs {
            let varargs = TemplateValue::tuple(rest)?;
            self.set(inner, &Arc::from("varargs"), varargs);
        } else if !rest.is_empty() {
            let most = found.parameters.len();
            return fail(format!("macro '{name}' takes not more than {most} argument(s)"));
        }
        Ok(())
    }
}

fn unary(sign: &str, value: &TemplateValue) -> String {
    match value {
        TemplateValue::Undefined(missing) => missing.0.clone(),
        other => format!("bad operand type for unary {sign}: '{}'", other.type_name()),
    }
}
