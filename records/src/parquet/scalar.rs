//! What a column's values are, by its physical and logical type, and the texts of those that JSON has no type for.
//!
//! Times are ISO 8601: a date `2024-01-31`, a moment `2024-01-31T12:00:00.5`, with `Z` where it is one of UTC. Decimals are
//! numbers as long as a float holds all their digits, and texts otherwise. `parquet`'s names of types that no program writes
//! with such a physical type are refused, since a guess could be wrong.

mod text;

use ::parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as Physical};
use ::parquet::schema::types::Type;

pub(super) use self::text::{date, decimal, duration, int96, interval, moment, time};

/// What a column's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    /// Nulls, whatever is stored.
    Null,
    Bool,
    Signed,
    Unsigned,
    Float,
    /// Two bytes.
    Half,
    /// UTF-8.
    Text,
    /// Bytes that may be a text.
    Bytes,
    /// Bytes of a fixed length: hashes and wide integers, whose bytes are a text by chance.
    Fixed,
    /// Integers or bytes of the digits before and after the point; the latter are as many as told.
    Decimal(i32),
    /// Days since 1970.
    Date,
    /// Since midnight.
    Time(SecondPart),
    /// A date whose time is told too.
    Midnight,
    /// Since 1970; where it is one of UTC, told so many seconds east of that.
    Moment(SecondPart, Option<i32>),
    /// The same in the form of Impala and old Spark.
    Int96(Option<i32>),
    /// A length of time.
    Duration(SecondPart),
    /// Months, days and milliseconds.
    Interval,
}

/// A second's part that times are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecondPart {
    Whole,
    Milli,
    Micro,
    Nano,
}

impl From<TimeUnit> for SecondPart {
    fn from(unit: TimeUnit) -> Self {
        match unit {
            TimeUnit::MILLIS => Self::Milli,
            TimeUnit::MICROS => Self::Micro,
            TimeUnit::NANOS => Self::Nano,
        }
    }
}

impl SecondPart {
    fn a_second(self) -> i64 {
        match self {
            Self::Whole => 1,
            Self::Milli => 1_000,
            Self::Micro => 1_000_000,
            Self::Nano => 1_000_000_000,
        }
    }

    /// Whole seconds, and nanoseconds beyond them.
    fn split(self, value: i64) -> (i64, u32) {
        let each = self.a_second();
        (value.div_euclid(each), (value.rem_euclid(each) * (1_000_000_000 / each)) as u32)
    }
}

impl Scalar {
    /// Of a primitive type.
    ///
    /// # Errors
    /// A logical type that does not go with the physical one.
    pub(super) fn of(kind: &Type) -> Result<Self, String> {
        let info = kind.get_basic_info();
        let (logical, converted) = (info.logical_type_ref(), info.converted_type());
        if logical == Some(&LogicalType::Unknown) {
            return Ok(Self::Null);
        }
        let Type::PrimitiveType { physical_type, type_length, scale, .. } = kind else {
            return Err("a group where a column is expected".to_owned());
        };
        let scale = match logical {
            Some(LogicalType::Decimal(decimal)) => decimal.scale,
            _ => *scale,
        };
        let found = match physical_type {
            Physical::BOOLEAN => Some(Self::Bool),
            Physical::INT32 => Self::of_int32(logical, converted, scale),
            Physical::INT64 => Self::of_int64(logical, converted, scale),
            Physical::INT96 => Some(Self::Int96(None)),
            Physical::FLOAT | Physical::DOUBLE => Some(Self::Float),
            Physical::BYTE_ARRAY => Self::of_bytes(logical, converted, scale),
            Physical::FIXED_LEN_BYTE_ARRAY => Self::of_fixed(logical, converted, scale, *type_length),
        };
        found.ok_or_else(|| {
            let named = logical.map_or_else(|| format!("{converted}"), |logical| format!("{logical:?}"));
            format!("values of the type {named} in {physical_type}, which no row can have")
        })
    }

    fn of_int32(logical: Option<&LogicalType>, converted: ConvertedType, scale: i32) -> Option<Self> {
        Some(match (logical, converted) {
            (Some(LogicalType::Integer(integer)), _) if integer.bit_width <= 32 => {
                Self::of_sign(integer.is_signed)
            }
            (Some(LogicalType::Decimal(_)), _) | (None, ConvertedType::DECIMAL) => Self::Decimal(scale),
            (Some(LogicalType::Date), _) | (None, ConvertedType::DATE) => Self::Date,
            (Some(LogicalType::Time(time)), _) if time.unit == TimeUnit::MILLIS => {
                Self::Time(SecondPart::Milli)
            }
            (None, ConvertedType::TIME_MILLIS) => Self::Time(SecondPart::Milli),
            (None, ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32) => Self::Unsigned,
            (
                None,
                ConvertedType::NONE | ConvertedType::INT_8 | ConvertedType::INT_16 | ConvertedType::INT_32,
            ) => Self::Signed,
            _ => return None,
        })
    }

    fn of_int64(logical: Option<&LogicalType>, converted: ConvertedType, scale: i32) -> Option<Self> {
        Some(match (logical, converted) {
            (Some(LogicalType::Integer(integer)), _) if integer.bit_width == 64 => {
                Self::of_sign(integer.is_signed)
            }
            (Some(LogicalType::Decimal(_)), _) | (None, ConvertedType::DECIMAL) => Self::Decimal(scale),
            (Some(LogicalType::Time(time)), _) if time.unit != TimeUnit::MILLIS => {
                Self::Time(time.unit.into())
            }
            (None, ConvertedType::TIME_MICROS) => Self::Time(SecondPart::Micro),
            (Some(LogicalType::Timestamp(moment)), _) => {
                Self::Moment(moment.unit.into(), moment.is_adjusted_to_u_t_c.then_some(0))
            }
            (None, ConvertedType::TIMESTAMP_MILLIS) => Self::Moment(SecondPart::Milli, Some(0)),
            (None, ConvertedType::TIMESTAMP_MICROS) => Self::Moment(SecondPart::Micro, Some(0)),
            (None, ConvertedType::UINT_64) => Self::Unsigned,
            (None, ConvertedType::NONE | ConvertedType::INT_64) => Self::Signed,
            _ => return None,
        })
    }

    fn of_sign(is_signed: bool) -> Self {
        if is_signed { Self::Signed } else { Self::Unsigned }
    }

    fn of_bytes(logical: Option<&LogicalType>, converted: ConvertedType, scale: i32) -> Option<Self> {
        Some(match (logical, converted) {
            (Some(LogicalType::String | LogicalType::Json), _)
            | (None, ConvertedType::UTF8 | ConvertedType::JSON) => Self::Text,
            (Some(LogicalType::Decimal(_)), _) | (None, ConvertedType::DECIMAL) => Self::Decimal(scale),
            (
                Some(
                    LogicalType::Bson
                    | LogicalType::Enum
                    | LogicalType::Geometry(_)
                    | LogicalType::Geography(_)
                    | LogicalType::_Unknown { .. },
                ),
                _,
            )
            | (None, ConvertedType::NONE | ConvertedType::BSON | ConvertedType::ENUM) => Self::Bytes,
            _ => return None,
        })
    }

    fn of_fixed(
        logical: Option<&LogicalType>,
        converted: ConvertedType,
        scale: i32,
        length: i32,
    ) -> Option<Self> {
        match (logical, converted) {
            (Some(LogicalType::Decimal(_)), _) | (None, ConvertedType::DECIMAL) => Some(Self::Decimal(scale)),
            (None, ConvertedType::INTERVAL) => (length == 12).then_some(Self::Interval),
            (Some(LogicalType::Float16), _) => (length == 2).then_some(Self::Half),
            _ => Some(Self::Fixed),
        }
    }
}
