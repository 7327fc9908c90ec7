//! What filters, tests, methods and printing ask of the template that runs.

use super::fault::RenderResult;
use super::value::TemplateValue;

/// A running template. Values that hold a place in its tables (namespaces, macros, cyclers) are looked up here.
pub(super) trait RenderContext {
    /// `object.name`: an attribute or method, else an item of that name.
    fn attribute(&self, object: &TemplateValue, name: &str) -> RenderResult<TemplateValue>;

    /// `object[key]`: an item, else an attribute of that name.
    fn item(&self, object: &TemplateValue, key: &TemplateValue) -> RenderResult<TemplateValue>;

    /// The attributes of a namespace.
    fn namespace(&self, place: usize) -> &[(TemplateValue, TemplateValue)];

    /// The name that a macro was defined under.
    fn macro_name(&self, place: usize) -> &str;

    /// A cycler's item, and on to the next.
    fn cycle(&mut self, place: usize) -> TemplateValue;

    /// A cycler back at its first item.
    fn reset(&mut self, place: usize);
}
