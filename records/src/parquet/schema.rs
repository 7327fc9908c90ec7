//! Columns as a Parquet schema: what `datasets` and pyarrow write and read.
//!
//! Everything may be null. Lists are the standard's groups of three levels, whose items are named `item`:
//!
//! ```text
//! optional group ids (LIST) { repeated group list { optional int32 item (INTEGER(32, false)); } }
//! ```

use std::sync::Arc;

use ::parquet::basic::{LogicalType, Repetition, Type as Physical};
use ::parquet::errors::ParquetError;
use ::parquet::schema::types::{Type, TypePtr};

use crate::{ColumnSpec, ColumnType};

/// The schema of rows with these columns.
pub(super) fn message(columns: &[ColumnSpec]) -> Result<TypePtr, ParquetError> {
    let message = Type::group_type_builder("schema").with_fields(fields(columns)?).build()?;
    Ok(Arc::new(message))
}

fn fields(columns: &[ColumnSpec]) -> Result<Vec<TypePtr>, ParquetError> {
    columns.iter().map(|column| field(&column.name, &column.kind)).collect()
}

fn field(name: &str, kind: &ColumnType) -> Result<TypePtr, ParquetError> {
    let (physical, logical) = match kind {
        ColumnType::Null => (Physical::INT32, Some(LogicalType::Unknown)),
        ColumnType::Bool => (Physical::BOOLEAN, None),
        ColumnType::UInt32 => (Physical::INT32, Some(LogicalType::integer(32, false))),
        ColumnType::UInt64 => (Physical::INT64, Some(LogicalType::integer(64, false))),
        ColumnType::Int64 => (Physical::INT64, None),
        ColumnType::Float32 => (Physical::FLOAT, None),
        ColumnType::Float64 => (Physical::DOUBLE, None),
        ColumnType::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        ColumnType::List(item) => return list(name, item),
        ColumnType::Struct(columns) => {
            let group = Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL);
            return Ok(Arc::new(group.with_fields(fields(columns)?).build()?));
        }
    };
    let leaf = Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
    Ok(Arc::new(leaf.with_logical_type(logical).build()?))
}

fn list(name: &str, item: &ColumnType) -> Result<TypePtr, ParquetError> {
    let items = Type::group_type_builder("list").with_repetition(Repetition::REPEATED);
    let items = items.with_fields(vec![field("item", item)?]).build()?;
    let list = Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL);
    let list = list.with_logical_type(Some(LogicalType::List));
    Ok(Arc::new(list.with_fields(vec![Arc::new(items)]).build()?))
}
