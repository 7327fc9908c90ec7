//! What the columns of a kind of row hold: the description from which a Parquet schema is made, and messages say what is
//! expected.

/// A column: its name and what it holds. Every column may be null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnSpec {
    /// The field's name in JSON.
    pub name: String,
    /// What its values are.
    pub kind: ColumnType,
}

impl ColumnSpec {
    /// A column of a name and a type.
    pub fn new(name: impl Into<String>, kind: ColumnType) -> Self {
        Self { name: name.into(), kind }
    }
}

/// The type of a column's values, or of those inside of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// Nulls alone.
    Null,
    /// True or false.
    Bool,
    /// Integers from 0 to 2^32 - 1: token ids.
    UInt32,
    /// Integers from 0 to 2^64 - 1.
    UInt64,
    /// Integers from -2^63 to 2^63 - 1.
    Int64,
    /// Numbers of 32 bits.
    Float32,
    /// Numbers of 64 bits.
    Float64,
    /// Texts.
    Text,
    /// Lists whose items have this type.
    List(Box<ColumnType>),
    /// Objects with these fields.
    Struct(Vec<ColumnSpec>),
}

impl ColumnType {
    /// Lists of such values.
    pub fn list(self) -> Self {
        Self::List(Box::new(self))
    }

    /// Columns of Parquet's lowest level.
    pub(crate) fn leaves(&self) -> usize {
        match self {
            Self::List(item) => item.leaves(),
            Self::Struct(fields) => fields.iter().map(|field| field.kind.leaves()).sum(),
            _ => 1,
        }
    }

    /// What is expected, in words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Text => "a string".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::UInt32 => "a token id".to_owned(),
            Self::Float32 | Self::Float64 => "a number".to_owned(),
            Self::Int64 | Self::UInt64 => "an integer".to_owned(),
            Self::Struct(fields) => format!("an object with {}", names(fields)),
            Self::List(item) => match item.as_ref() {
                Self::Text => "an array of strings".to_owned(),
                Self::UInt32 => "an array of token ids".to_owned(),
                Self::Float32 | Self::Float64 => "an array of numbers".to_owned(),
                Self::Struct(fields) => format!("an array of objects with {}", names(fields)),
                Self::List(_) => "an array of arrays of numbers".to_owned(),
                _ => "an array".to_owned(),
            },
            Self::Null => "null".to_owned(),
        }
    }
}

fn names(fields: &[ColumnSpec]) -> String {
    fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ")
}
