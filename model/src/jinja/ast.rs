//! The tree of a template.

use std::sync::Arc;

/// An expression, the line on which it begins, and how deep it is.
#[derive(Debug)]
pub(super) struct Expr {
    pub(super) kind: ExprKind,
    pub(super) line: u32,
    pub(super) depth: u16,
}

/// The kinds of expressions.
#[derive(Debug)]
pub(super) enum ExprKind {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// test, then, otherwise.
    Conditional(Box<(Expr, Expr, Option<Expr>)>),
    Or(Box<(Expr, Expr)>),
    And(Box<(Expr, Expr)>),
    Not(Box<Expr>),
    Compare(Box<Expr>, Vec<(ComparisonOperator, Expr)>),
    Binary(Operator, Box<(Expr, Expr)>),
    Concat(Vec<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Attribute(Box<Expr>, String),
    Item(Box<(Expr, Expr)>),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Box<(Expr, Arguments)>),
    /// Of `None`: of the text of the block that the filter stands at.
    Filter(Option<Box<Expr>>, String, Box<Arguments>),
    Test(Box<Expr>, String, Box<Arguments>),
}

/// What two values are compared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ComparisonOperator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

/// Arithmetic of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

/// The arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(String, Expr)>,
    /// `*list`.
    pub(super) more: Option<Expr>,
    /// `**mapping`.
    pub(super) more_named: Option<Expr>,
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum AssignmentTarget {
    Name(Arc<str>),
    /// `namespace.attribute`.
    Attribute(Arc<str>, String, u32),
    Tuple(Vec<AssignmentTarget>),
}

/// A statement, or text.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(Expr),
    If(Vec<(Expr, Vec<Node>)>, Vec<Node>),
    For(Box<For>),
    Set(AssignmentTarget, Expr),
    /// `{% set x | filter %}…{% endset %}`.
    SetBlock(AssignmentTarget, Option<Expr>, Vec<Node>),
    With(Vec<(AssignmentTarget, Expr)>, Vec<Node>),
    Macro(Box<Macro>),
    /// `{% call(…) f(…) %}…{% endcall %}`: the call, and what `caller` is within it.
    Call(Expr, Box<Macro>),
    FilterBlock(Expr, Vec<Node>),
    /// A `{% block %}`, or another body with a scope of its own.
    Scope(Vec<Node>),
    Break,
    Continue,
    /// A statement that needs other templates.
    Other(&'static str, u32),
}

/// `{% for target in iterable if test recursive %}`.
#[derive(Debug)]
pub(super) struct For {
    pub(super) target: AssignmentTarget,
    pub(super) iterable: Expr,
    pub(super) test: Option<Expr>,
    pub(super) is_recursive: bool,
    /// Whether the body asks for `loop`.
    pub(super) uses_loop: bool,
    pub(super) body: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
    pub(super) line: u32,
}

/// `{% macro name(parameters) %}`; the defaults belong to the last parameters.
#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: Arc<str>,
    pub(super) parameters: Vec<Arc<str>>,
    pub(super) defaults: Vec<Expr>,
    pub(super) body: Vec<Node>,
    pub(super) uses_varargs: bool,
    pub(super) uses_kwargs: bool,
    pub(super) uses_caller: bool,
}
