//! What the columns of a Parquet file make up: fields, objects, lists and maps, with the levels at which each is there.
//!
//! Lists come in many forms. The standard's rules for the older ones are followed
//! (<https://github.com/apache/parquet-format/blob/master/LogicalTypes.md>, "Backward-compatibility rules"):
//!
//! ```text
//! group a (LIST) { repeated group list { optional int32 element; } }   the standard's: numbers
//! group a (LIST) { repeated int32 element; }                          numbers
//! group a (LIST) { repeated group element { x; y; } }                 objects of x and y
//! group a (LIST) { repeated group array { x; } }                      objects of x, by the name "array" or "a_tuple"
//! repeated int32 a;                                                   numbers
//! ```

use std::ops::Range;

use ::parquet::basic::{ConvertedType, LogicalType, Repetition};
use ::parquet::schema::types::Type;

use super::scalar::Scalar;

/// A field of rows or of objects, an item of a list, a key or a value of a map.
#[derive(Debug, PartialEq)]
pub(super) struct ColumnNode {
    /// The definition level from which on it is there; below it is null.
    pub(super) present: i16,
    /// The columns in it.
    pub(super) leaves: Range<usize>,
    pub(super) kind: NodeKind,
}

/// What a field is.
#[derive(Debug, PartialEq)]
pub(super) enum NodeKind {
    /// A column.
    Scalar(Scalar),
    /// An object: its fields by name.
    Object(Vec<(String, ColumnNode)>),
    /// A list of items.
    List(ItemLevels, Box<ColumnNode>),
    /// A map: keys and values.
    Map(ItemLevels, Box<(ColumnNode, ColumnNode)>),
}

/// The levels of a list's items.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ItemLevels {
    /// The definition level from which on an item is there; below it the list is empty.
    pub(super) present: i16,
    /// The repetition level of each item but the first.
    pub(super) again: i16,
}

/// The levels around a field.
#[derive(Clone, Copy)]
struct Levels {
    definition: i16,
    repetition: i16,
}

/// The field of a row that `root` describes, whose columns are numbered from `first_leaf` on; `None` where it has no column.
///
/// # Errors
/// A type that is not one of Parquet's.
pub(super) fn of_root(root: &Type, first_leaf: usize) -> Result<Option<ColumnNode>, String> {
    let mut builder = NodeBuilder { next_leaf: first_leaf };
    builder.field(root, Levels { definition: 0, repetition: 0 })
}

struct NodeBuilder {
    next_leaf: usize,
}

impl NodeBuilder {
    /// A field; one that is repeated without being in a list is a list by itself.
    fn field(&mut self, kind: &Type, around: Levels) -> Result<Option<ColumnNode>, String> {
        match repetition(kind) {
            Repetition::REQUIRED => self.value(kind, around),
            Repetition::OPTIONAL => self.value(kind, Levels { definition: around.definition + 1, ..around }),
            Repetition::REPEATED => self.repeated(kind, around),
        }
    }

    /// The list whose items are the repeated field `kind`.
    fn repeated(&mut self, kind: &Type, around: Levels) -> Result<Option<ColumnNode>, String> {
        let inner = Levels { definition: around.definition + 1, repetition: around.repetition + 1 };
        let item = if kind.is_primitive() { self.scalar(kind, inner)? } else { self.value(kind, inner)? };
        Ok(item.map(|item| list(around, inner, item)))
    }

    /// A field's value where the field is there.
    fn value(&mut self, kind: &Type, levels: Levels) -> Result<Option<ColumnNode>, String> {
        if kind.is_primitive() {
            return self.scalar(kind, levels);
        }
        if is_list(kind) {
            return self.list(kind, levels);
        }
        if is_map(kind) {
            return self.map(kind, levels);
        }
        self.object(kind, levels)
    }

    fn scalar(&mut self, kind: &Type, levels: Levels) -> Result<Option<ColumnNode>, String> {
        let leaf = self.next_leaf;
        self.next_leaf += 1;
        let kind = NodeKind::Scalar(Scalar::of(kind)?);
        Ok(Some(ColumnNode { present: levels.definition, leaves: leaf..leaf + 1, kind }))
    }

    fn object(&mut self, kind: &Type, levels: Levels) -> Result<Option<ColumnNode>, String> {
        let first = self.next_leaf;
        let mut fields = Vec::with_capacity(kind.get_fields().len());
        for field in kind.get_fields() {
            if let Some(node) = self.field(field, levels)? {
                fields.push((field.name().to_owned(), node));
            }
        }
        let leaves = first..self.next_leaf;
        let node = ColumnNode { present: levels.definition, leaves, kind: NodeKind::Object(fields) };
        Ok((!node.leaves.is_empty()).then_some(node))
    }

    fn list(&mut self, kind: &Type, levels: Levels) -> Result<Option<ColumnNode>, String> {
        let [repeated] = kind.get_fields() else {
            return Err(format!("the list {:?} has not exactly one field", kind.name()));
        };
        if repetition(kind) == Repetition::REPEATED || repetition(repeated) != Repetition::REPEATED {
            return Err(format!(
                "the list {:?} is not an optional or required group of what is repeated",
                kind.name()
            ));
        }
        let inner = Levels { definition: levels.definition + 1, repetition: levels.repetition + 1 };
        let item = match item_of(kind, repeated) {
            Some(item) => self.field(item, inner)?,
            None if repeated.is_primitive() => self.scalar(repeated, inner)?,
            None => self.object(repeated, inner)?,
        };
        Ok(item.map(|item| list(levels, inner, item)))
    }

    fn map(&mut self, kind: &Type, levels: Levels) -> Result<Option<ColumnNode>, String> {
        let wrong = || format!("the map {:?} is not a group of repeated keys and values", kind.name());
        let [entries] = kind.get_fields() else { return Err(wrong()) };
        if repetition(kind) == Repetition::REPEATED
            || repetition(entries) != Repetition::REPEATED
            || entries.is_primitive()
        {
            return Err(wrong());
        }
        let first = self.next_leaf;
        let inner = Levels { definition: levels.definition + 1, repetition: levels.repetition + 1 };
        let (key, value) = match entries.get_fields() {
            // Keys alone are a list.
            [_] => return self.list(kind, levels),
            [key, value] => (key, value),
            _ => return Err(wrong()),
        };
        if [key, value].into_iter().any(|field| repetition(field) == Repetition::REPEATED) {
            return Err(wrong());
        }
        let (Some(key), Some(value)) = (self.field(key, inner)?, self.field(value, inner)?) else {
            return Ok(None);
        };
        let items = ItemLevels { present: inner.definition, again: inner.repetition };
        let kind = NodeKind::Map(items, Box::new((key, value)));
        Ok(Some(ColumnNode { present: levels.definition, leaves: first..self.next_leaf, kind }))
    }
}

fn list(around: Levels, inner: Levels, item: ColumnNode) -> ColumnNode {
    let items = ItemLevels { present: inner.definition, again: inner.repetition };
    ColumnNode {
        present: around.definition,
        leaves: item.leaves.clone(),
        kind: NodeKind::List(items, Box::new(item)),
    }
}

/// The item of a list, where the repeated group around it is no item itself.
fn item_of<'a>(list: &Type, repeated: &'a Type) -> Option<&'a Type> {
    if repeated.is_primitive() {
        return None;
    }
    let [item] = repeated.get_fields() else { return None };
    let name = repeated.name();
    let is_item = !is_list(repeated)
        && repetition(item) != Repetition::REPEATED
        && (name == "array" || name.strip_suffix("_tuple") == Some(list.name()));
    (!is_item).then_some(item.as_ref())
}

fn repetition(kind: &Type) -> Repetition {
    let info = kind.get_basic_info();
    if info.has_repetition() { info.repetition() } else { Repetition::REQUIRED }
}

fn is_list(kind: &Type) -> bool {
    let info = kind.get_basic_info();
    info.converted_type() == ConvertedType::LIST || info.logical_type_ref() == Some(&LogicalType::List)
}

fn is_map(kind: &Type) -> bool {
    let info = kind.get_basic_info();
    matches!(info.converted_type(), ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE)
        || info.logical_type_ref() == Some(&LogicalType::Map)
}

#[cfg(test)]
mod tests {
    use ::parquet::schema::parser::parse_message_type;

    use super::*;

    fn described(message: &str) -> String {
        let schema = parse_message_type(&format!("message m {{ {message} }}")).unwrap();
        let node = of_root(&schema.get_fields()[0], 0).unwrap().unwrap();
        text(&node)
    }

    /// Fields with their levels: `1` for what is null below level 1.
    fn text(node: &ColumnNode) -> String {
        let inner = match &node.kind {
            NodeKind::Scalar(_) => String::new(),
            NodeKind::Object(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(name, node)| format!("{name}:{}", text(node))).collect();
                format!("{{{}}}", fields.join(","))
            }
            NodeKind::List(items, item) => format!("[{}/{} {}]", items.present, items.again, text(item)),
            NodeKind::Map(items, entry) => {
                format!("<{}/{} {} {}>", items.present, items.again, text(&entry.0), text(&entry.1))
            }
        };
        format!("{}{inner}", node.present)
    }

    #[test]
    fn every_form_of_a_list_is_one() {
        let standard = "optional group a (LIST) { repeated group list { optional int32 element; } }";
        assert_eq!(described(standard), "1[2/1 3]");
        assert_eq!(described("required group a (LIST) { repeated int32 element; }"), "0[1/1 1]");
        let pairs =
            "optional group a (LIST) { repeated group element { required int32 x; optional int32 y; } }";
        assert_eq!(described(pairs), "1[2/1 2{x:2,y:3}]");
        for name in ["array", "a_tuple"] {
            let objects =
                format!("optional group a (LIST) {{ repeated group {name} {{ required int32 x; }} }}");
            assert_eq!(described(&objects), "1[2/1 2{x:2}]");
        }
        let other = "optional group a (LIST) { repeated group b_tuple { required int32 x; } }";
        assert_eq!(described(other), "1[2/1 2]");
        assert_eq!(described("repeated int32 a;"), "0[1/1 1]");
        assert_eq!(
            described("repeated group a { required int32 x; repeated int32 y; }"),
            "0[1/1 1{x:1,y:1[2/2 2]}]"
        );
        let nested = "optional group a (LIST) { repeated group list { optional group element (LIST) { \
                      repeated group list { optional int32 element; } } } }";
        assert_eq!(described(nested), "1[2/1 3[4/2 5]]");
    }

    #[test]
    fn maps_have_keys_and_perhaps_values() {
        let map = "optional group a (MAP) { repeated group key_value { required binary key (UTF8); optional int32 value; } }";
        assert_eq!(described(map), "1<2/1 2 3>");
        let keys = "required group a (MAP) { repeated group key_value { required binary key (UTF8); } }";
        assert_eq!(described(keys), "0[1/1 1]");
    }
}
