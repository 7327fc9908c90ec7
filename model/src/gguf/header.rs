//! The bytes of a GGUF (versions 2 and 3, little-endian) → its metadata and its tensors.
//!
//! ```text
//! "GGUF"  version u32  tensors u64  entries u64
//! entry   key string, type u32, value           string   length u64, bytes         array   type u32, count u64, values
//! tensor  name string, dimensions u32, each u64 innermost first, type u32, offset u64 from the data's begin
//! data    begins at the next multiple of general.alignment (32)
//! ```
//!
//! Nothing in the file is believed: a length or a count is held against the bytes that are left before anything is done
//! with it, and strings and arrays stay where they are in the file, as ranges. So a hostile file costs as much memory as
//! it has entries, each of which has its bytes in it.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::quantized::GgmlDType;

use crate::weights::AGAIN;

/// Published files have some dozens of entries, and some thousands of tensors.
const MOST_ENTRIES: u64 = 1 << 16;
const MOST_TENSORS: u64 = 1 << 18;
const MOST_KEY: usize = 1 << 16;
const MOST_DIMENSIONS: u32 = 4;
/// Arrays of arrays: the format allows them without a bound, nobody writes them.
const MOST_NESTING: usize = 4;
const ALIGNMENT: &str = "general.alignment";

/// What is wrong with a file, and what would be right.
#[derive(Debug)]
pub(super) struct HeaderFault {
    pub(super) what: String,
    pub(super) remedy: &'static str,
}

/// A value of the metadata; texts and arrays are ranges of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum MetadataEntry {
    Integer(i128),
    /// As the shortest decimal that gives it: the f32 of 1e-5 is 1e-5.
    Float(f64),
    Bool(bool),
    Text(Range<usize>),
    Array(ArrayEntry),
}

/// An array of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ArrayEntry {
    pub(super) element: u32,
    pub(super) count: usize,
    pub(super) bytes: Range<usize>,
}

/// A tensor as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorEntry {
    /// Outermost first.
    pub(super) shape: Vec<usize>,
    pub(super) format: GgmlDType,
    /// In the file.
    pub(super) bytes: Range<usize>,
}

/// What a header says.
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, MetadataEntry>,
    pub(super) tensors: BTreeMap<String, TensorEntry>,
}

type Read<T> = Result<T, HeaderFault>;

fn fault<T>(what: impl Into<String>) -> Read<T> {
    Err(HeaderFault { what: what.into(), remedy: AGAIN })
}

/// Reads a whole header, and checks that every tensor lies inside the file.
pub(super) fn read(file: &[u8]) -> Read<Header> {
    let mut cursor = Cursor { file, at: 0 };
    if cursor.take(4)? != b"GGUF" {
        let what = "it is no GGUF (it does not begin with that word)".to_owned();
        return Err(HeaderFault {
            what,
            remedy: "a model is a folder in Hugging Face's layout, or a FILE.gguf",
        });
    }
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        let what = if (1..=3).contains(&version.swap_bytes()) {
            "it is a big-endian GGUF, which is not supported".to_owned()
        } else {
            format!("it is a GGUF of version {version}; 2 and 3 are read")
        };
        return Err(HeaderFault { what, remedy: "convert the model again with a current llama.cpp" });
    }
    let tensor_count = cursor.count(MOST_TENSORS, 24, "tensors")?;
    let entry_count = cursor.count(MOST_ENTRIES, 13, "entries of metadata")?;
    let mut metadata = BTreeMap::new();
    for _ in 0..entry_count {
        let key = cursor.name("a key of its metadata")?;
        let kind = cursor.u32()?;
        let value = match cursor.value(kind, 0) {
            Ok(value) => value,
            Err(HeaderFault { what, remedy }) => {
                return Err(HeaderFault { what: format!("its entry `{key}`: {what}"), remedy });
            }
        };
        if metadata.insert(key.clone(), value).is_some() {
            return fault(format!("its entry `{key}` is there twice"));
        }
    }
    let mut described = Vec::new();
    for _ in 0..tensor_count {
        described.push(cursor.tensor()?);
    }
    let data = cursor.at.checked_next_multiple_of(alignment(&metadata)?).unwrap_or(usize::MAX);
    let mut tensors = BTreeMap::new();
    for Described { name, shape, format, offset, size } in described {
        if offset % alignment(&metadata)? as u64 != 0 {
            return fault(format!("tensor {name} begins at {offset}, which its alignment does not allow"));
        }
        let begin = usize::try_from(offset).ok().and_then(|offset| data.checked_add(offset));
        let bytes = begin.and_then(|begin| Some(begin..begin.checked_add(size)?));
        let Some(bytes) = bytes.filter(|bytes| bytes.end <= file.len()) else {
            return fault(format!(
                "it is cut short or damaged: tensor {name} of {size} bytes at {offset} lies outside its {} bytes",
                file.len()
            ));
        };
        if tensors.insert(name.clone(), TensorEntry { shape, format, bytes }).is_some() {
            return fault(format!("tensor {name} is there twice"));
        }
    }
    Ok(Header { metadata, tensors })
}

fn alignment(metadata: &BTreeMap<String, MetadataEntry>) -> Read<usize> {
    match metadata.get(ALIGNMENT) {
        None => Ok(32),
        Some(MetadataEntry::Integer(n)) if (8..=1 << 20).contains(n) && n % 8 == 0 => Ok(*n as usize),
        Some(other) => fault(format!("its `{ALIGNMENT}` is {other:?}; it must be a small multiple of 8")),
    }
}

/// A tensor before its place is known.
struct Described {
    name: String,
    shape: Vec<usize>,
    format: GgmlDType,
    offset: u64,
    size: usize,
}

struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.file.len() - self.at
    }

    fn take(&mut self, length: usize) -> Read<&'a [u8]> {
        match self.at.checked_add(length).and_then(|end| self.file.get(self.at..end)) {
            Some(bytes) => {
                self.at += length;
                Ok(bytes)
            }
            None => fault(format!(
                "it is cut short or damaged: {length} bytes are wanted at {}, and it has {}",
                self.at,
                self.file.len()
            )),
        }
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of things of at least `least` bytes each, at most `most`.
    fn count(&mut self, most: u64, least: usize, what: &str) -> Read<u64> {
        let count = self.u64()?;
        if count > most || count > (self.left() / least) as u64 {
            return fault(format!("it is damaged: it claims {count} {what}"));
        }
        Ok(count)
    }

    fn text(&mut self) -> Read<Range<usize>> {
        let length = self.u64()?;
        let begin = self.at;
        match usize::try_from(length) {
            Ok(length) if length <= self.left() => {
                self.at += length;
                Ok(begin..self.at)
            }
            _ => fault(format!(
                "it is cut short or damaged: a text of {length} bytes at {begin}, and it has {}",
                self.file.len()
            )),
        }
    }

    fn name(&mut self, what: &str) -> Read<String> {
        let range = self.text()?;
        if range.len() > MOST_KEY || range.is_empty() {
            return fault(format!("it is damaged: {what} has {} bytes", range.len()));
        }
        match std::str::from_utf8(&self.file[range]) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => fault(format!("it is damaged: {what} is not UTF-8")),
        }
    }

    fn value(&mut self, kind: u32, nesting: usize) -> Read<MetadataEntry> {
        if let Some(scalar) = scalar(kind) {
            return Ok(scalar.read(self.take(scalar.width())?));
        }
        match kind {
            TEXT => Ok(MetadataEntry::Text(self.text()?)),
            ARRAY if nesting < MOST_NESTING => {
                let element = self.u32()?;
                let least = match (scalar(element), element) {
                    (Some(scalar), _) => scalar.width(),
                    (None, TEXT) => 8,
                    (None, ARRAY) => 12,
                    _ => return fault(format!("a list of the unknown type {element}")),
                };
                let count = self.count(u64::MAX, least, "values of a list")? as usize;
                let begin = self.at;
                if scalar(element).is_some() {
                    // No overflow: the count was held against what is left.
                    self.take(count * least)?;
                } else {
                    for _ in 0..count {
                        self.value(element, nesting + 1)?;
                    }
                }
                Ok(MetadataEntry::Array(ArrayEntry { element, count, bytes: begin..self.at }))
            }
            ARRAY => fault("lists inside lists without an end"),
            other => fault(format!("a value of the unknown type {other}")),
        }
    }

    fn tensor(&mut self) -> Read<Described> {
        let name = self.name("a tensor's name")?;
        let dimensions = self.u32()?;
        if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
            return fault(format!("tensor {name} has {dimensions} dimensions"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64()?);
        }
        let format = format_of(self.u32()?, &name)?;
        let offset = self.u64()?;
        let (block, width) = (format.block_size() as u64, format.type_size() as u64);
        // A dimension of no numbers is no tensor; 2^48 numbers are no file.
        let numbers = shape.iter().try_fold(1u64, |product, n| product.checked_mul(*n).filter(|n| *n > 0));
        let Some(numbers) = numbers.filter(|numbers| *numbers < 1 << 48) else {
            return fault(format!("it is damaged: tensor {name} has the dimensions {shape:?}"));
        };
        if shape[0] % block != 0 {
            return fault(format!(
                "tensor {name} has rows of {} numbers, which are not whole blocks of {block}",
                shape[0]
            ));
        }
        let size = numbers / block * width;
        let shape = shape.iter().rev().map(|n| *n as usize).collect();
        Ok(Described { name, shape, format, offset, size: size as usize })
    }
}

pub(super) const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// Numbers and truth values of the metadata.
#[derive(Clone, Copy)]
pub(super) enum MetadataScalar {
    Unsigned(usize),
    Signed(usize),
    F32,
    F64,
    Bool,
}

pub(super) fn scalar(kind: u32) -> Option<MetadataScalar> {
    Some(match kind {
        0 => MetadataScalar::Unsigned(1),
        1 => MetadataScalar::Signed(1),
        2 => MetadataScalar::Unsigned(2),
        3 => MetadataScalar::Signed(2),
        4 => MetadataScalar::Unsigned(4),
        5 => MetadataScalar::Signed(4),
        6 => MetadataScalar::F32,
        7 => MetadataScalar::Bool,
        10 => MetadataScalar::Unsigned(8),
        11 => MetadataScalar::Signed(8),
        12 => MetadataScalar::F64,
        _ => return None,
    })
}

impl MetadataScalar {
    pub(super) fn width(self) -> usize {
        match self {
            Self::Unsigned(width) | Self::Signed(width) => width,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Bool => 1,
        }
    }

    /// The value of as many bytes as it is wide.
    pub(super) fn read(self, bytes: &[u8]) -> MetadataEntry {
        let mut wide = [0; 8];
        wide[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
        let number = u64::from_le_bytes(wide);
        match self {
            Self::Unsigned(_) => MetadataEntry::Integer(i128::from(number)),
            Self::Signed(width) => {
                let shift = 64 - 8 * width as u32;
                MetadataEntry::Integer(i128::from((number << shift).cast_signed() >> shift))
            }
            Self::F32 => {
                let short = f32::from_bits(number as u32);
                MetadataEntry::Float(short.to_string().parse().unwrap_or(f64::from(short)))
            }
            Self::F64 => MetadataEntry::Float(f64::from_bits(number)),
            Self::Bool => MetadataEntry::Bool(number != 0),
        }
    }
}

fn format_of(number: u32, tensor: &str) -> Read<GgmlDType> {
    Ok(match number {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        other => {
            return Err(HeaderFault {
                what: format!("tensor {tensor} is stored as {}, which is not read", format_name(other)),
                remedy: "take a file in F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 or Q2_K to Q6_K",
            });
        }
    })
}

/// The name of a format that is not read.
fn format_name(number: u32) -> String {
    let name = match number {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24..=27 => "integers",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        other => return format!("the unknown type {other}"),
    };
    name.to_owned()
}
