//! Scopes: which name means what where, and what an assignment changes.

use std::sync::Arc;

use super::super::ast::AssignmentTarget;
use super::super::fault::{RenderResult, TemplateFault, fail, step};
use super::super::value::{Function, TemplateValue};
use super::Interpreter;

/// A scope's names.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) parent: Option<usize>,
    pub(super) names: Vec<(Arc<str>, TemplateValue)>,
    /// A macro was made here, or below: it may be called after the scope's end.
    pub(super) is_kept: bool,
}

impl Interpreter<'_> {
    pub(super) fn open(&mut self, parent: usize) -> usize {
        self.scopes.push(Scope { parent: Some(parent), names: Vec::new(), is_kept: false });
        self.scopes.len() - 1
    }

    pub(super) fn close(&mut self, scope: usize) {
        if scope + 1 == self.scopes.len() && !self.scopes[scope].is_kept {
            self.scopes.pop();
        }
    }

    /// Runs with a scope of its own.
    pub(super) fn scoped<T>(
        &mut self,
        parent: usize,
        run: impl FnOnce(&mut Self, usize) -> RenderResult<T>,
    ) -> RenderResult<T> {
        let scope = self.open(parent);
        let result = run(self, scope);
        self.close(scope);
        result
    }

    pub(super) fn set(&mut self, scope: usize, name: &Arc<str>, value: TemplateValue) {
        let names = &mut self.scopes[scope].names;
        match names.iter_mut().find(|(known, _)| known == name) {
            Some(place) => place.1 = value,
            None => names.push((Arc::clone(name), value)),
        }
    }

    pub(super) fn find(&self, scope: usize, name: &str) -> Option<TemplateValue> {
        let mut scope = Some(scope);
        while let Some(place) = scope {
            let found = &self.scopes[place];
            // What exceeds the bound ends at the next step.
            let _ = step(found.names.len() as u64 / 16);
            if let Some((_, value)) = found.names.iter().rev().find(|(known, _)| &**known == name) {
                return Some(value.clone());
            }
            scope = found.parent;
        }
        if let Some((_, value)) = self.globals.iter().find(|(known, _)| known == name) {
            return Some(value.clone());
        }
        let function = match name {
            "range" => Function::Range,
            "dict" => Function::Dict,
            "namespace" => Function::Namespace,
            "cycler" => Function::Cycler,
            "joiner" => Function::Joiner,
            "lipsum" => Function::Lipsum,
            "raise_exception" => Function::RaiseException,
            "strftime_now" => Function::StrftimeNow,
            _ => return None,
        };
        Some(TemplateValue::Function(function))
    }

    pub(super) fn assign(
        &mut self,
        target: &AssignmentTarget,
        value: TemplateValue,
        scope: usize,
    ) -> RenderResult<()> {
        match target {
            AssignmentTarget::Name(name) => {
                self.set(scope, name, value);
                Ok(())
            }
            AssignmentTarget::Attribute(name, attribute, line) => match self.find(scope, name) {
                Some(TemplateValue::Namespace(place)) => self.set_attribute(place, attribute, value),
                Some(_) => {
                    Err(TemplateFault::failed("cannot assign attribute on non-namespace object").at(*line))
                }
                None => Err(TemplateFault::failed(format!("'{name}' is undefined")).at(*line)),
            },
            AssignmentTarget::Tuple(targets) => {
                let items = value.items()?;
                if items.items.len() != targets.len() {
                    let (wanted, found) = (targets.len(), items.items.len());
                    return fail(if found > wanted {
                        format!("ValueError: too many values to unpack (expected {wanted})")
                    } else {
                        format!("ValueError: not enough values to unpack (expected {wanted}, got {found})")
                    });
                }
                for (target, item) in targets.iter().zip(&items.items) {
                    self.assign(target, item.clone(), scope)?;
                }
                Ok(())
            }
        }
    }

    fn set_attribute(&mut self, place: usize, attribute: &str, value: TemplateValue) -> RenderResult<()> {
        let key = TemplateValue::text(attribute)?;
        let entries = &mut self.namespaces[place];
        step(entries.len() as u64 / 8)?;
        match entries.iter_mut().find(|(known, _)| known.as_str() == Some(attribute)) {
            Some(entry) => entry.1 = value,
            None => {
                self.tables.grow(2 * size_of::<TemplateValue>())?;
                entries.push((key, value));
            }
        }
        Ok(())
    }
}
