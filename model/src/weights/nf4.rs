//! Matrices that bitsandbytes stored as NF4, as transformers saves them: one tensor of packed codes under the weight's own
//! name, and its scales beside it.
//!
//! | tensor | content |
//! |---|---|
//! | `X.weight` | two codes a byte, the first in the high four bits \[⌈numbers / 2⌉, 1] |
//! | `X.weight.quant_map` | what the 16 codes mean |
//! | `X.weight.absmax` | a scale for each block of 64, f32; or, quantised a second time, u8 |
//! | `X.weight.nested_absmax`, `.nested_quant_map` | of the second time: scales of blocks of 256, what 256 codes mean |
//! | `X.weight.quant_state.bitsandbytes__nf4` | JSON: shape, block sizes, dtype, and the mean that was taken off the scales |

use std::collections::HashMap;

use serde_json::Value;

use super::{AGAIN, Encoding, TensorLocation};
use crate::architecture::StoredDtype;
use crate::linear::{Nf4Matrix, Nf4Scales};

const STATE: &str = ".quant_state.bitsandbytes__nf4";
const STATE_FP4: &str = ".quant_state.bitsandbytes__fp4";
/// Blocks that bitsandbytes makes: 64 to 4096 numbers, 256 scales.
const BLOCKS: std::ops::RangeInclusive<u64> = 16..=65_536;

/// Where the scales of a matrix are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Nf4Parts {
    /// What the matrix was before.
    pub(super) dtype: StoredDtype,
    block: usize,
    map: BlockPlace,
    scales: BlockPlace,
    nested: Option<Nested>,
}

#[derive(Clone, Debug, PartialEq)]
struct Nested {
    block: usize,
    scales: BlockPlace,
    map: BlockPlace,
    mean: f32,
}

/// A tensor's bytes.
#[derive(Clone, Debug, PartialEq)]
struct BlockPlace {
    shard: usize,
    bytes: std::ops::Range<usize>,
}

/// What is wrong with a file's quantised matrices.
pub(super) struct Nf4Fault {
    pub(super) shard: usize,
    pub(super) what: String,
    pub(super) remedy: &'static str,
}

/// Finds the matrices among all tensors, and puts each with its scales in the place of its codes.
///
/// Errors: a state that is not what bitsandbytes writes, scales that are missing, counts that do not fit the shape.
pub(super) fn gather<'a>(
    places: &mut HashMap<String, TensorLocation>,
    bytes: impl Fn(&TensorLocation) -> &'a [u8],
) -> Result<(), Nf4Fault> {
    let fault = |shard, what, remedy| Err(Nf4Fault { shard, what, remedy });
    if let Some(place) = places.iter().find_map(|(name, place)| name.ends_with(STATE_FP4).then_some(place)) {
        let what = format!("it holds {}: FP4 is not read", place.stored_name);
        return fault(place.shard, what, "use the model's unquantised weights, or NF4");
    }
    let mut names: Vec<String> =
        places.keys().filter_map(|name| name.strip_suffix(STATE)).map(str::to_owned).collect();
    names.sort();
    for name in names {
        let Some(state) = places.remove(&format!("{name}{STATE}")) else { continue };
        let shard = state.shard;
        let read = || -> Result<TensorLocation, String> {
            let state: Value = serde_json::from_slice(bytes(&state))
                .map_err(|error| format!("its quantisation's state is no JSON ({error})"))?;
            assemble(&name, &state, places)
        };
        match read() {
            Ok(place) => {
                for part in ["quant_map", "absmax", "nested_absmax", "nested_quant_map"] {
                    places.remove(&format!("{name}.{part}"));
                }
                places.insert(name, place);
            }
            Err(what) => return fault(shard, format!("tensor {name}: {what}"), AGAIN),
        }
    }
    Ok(())
}

fn assemble(
    name: &str,
    state: &Value,
    places: &HashMap<String, TensorLocation>,
) -> Result<TensorLocation, String> {
    if state["quant_type"] != "nf4" {
        return Err(format!("its quantisation is {}, not nf4", state["quant_type"]));
    }
    let block_size = |key: &str| {
        state[key]
            .as_u64()
            .filter(|size| BLOCKS.contains(size))
            .map(|size| size as usize)
            .ok_or_else(|| format!("`{key}` of its quantisation's state is {}", state[key]))
    };
    let whole = |value: &Value| value.as_u64().filter(|n| (1..1 << 32).contains(n)).map(|n| n as usize);
    let shape: Option<Vec<usize>> =
        state["shape"].as_array().and_then(|sizes| sizes.iter().map(whole).collect());
    let Some([rows, columns]) = shape.as_deref().and_then(|shape| <[usize; 2]>::try_from(shape).ok()) else {
        return Err(format!("`shape` of its quantisation's state is {}", state["shape"]));
    };
    let Some(numbers) = rows.checked_mul(columns) else {
        return Err(format!("it has {rows} × {columns} numbers"));
    };
    let dtype = match state["dtype"].as_str() {
        Some("float32") => StoredDtype::F32,
        Some("bfloat16") => StoredDtype::Bf16,
        Some("float16") => StoredDtype::F16,
        _ => return Err(format!("`dtype` of its quantisation's state is {}", state["dtype"])),
    };
    let block = block_size("blocksize")?;
    let part = |part: &str, bytes: usize| {
        let full = if part.is_empty() { name.to_owned() } else { format!("{name}.{part}") };
        match places.get(&full) {
            None => Err(format!("{full} is missing")),
            Some(place) if place.bytes.len() != bytes => {
                Err(format!("{full} has {} bytes; its shape makes them {bytes}", place.bytes.len()))
            }
            Some(place) => Ok(place),
        }
    };
    let place_of = |place: &TensorLocation| BlockPlace { shard: place.shard, bytes: place.bytes.clone() };
    let codes = part("", numbers.div_ceil(2))?;
    let blocks = numbers.div_ceil(block);
    let nested = match &state["nested_blocksize"] {
        Value::Null => None,
        _ => {
            let block = block_size("nested_blocksize")?;
            let mean =
                state["nested_offset"].as_f64().map(|mean| mean as f32).filter(|mean| mean.is_finite());
            Some(Nested {
                block,
                scales: place_of(part("nested_absmax", 4 * blocks.div_ceil(block))?),
                map: place_of(part("nested_quant_map", 4 * 256)?),
                mean: mean.ok_or_else(|| format!("`nested_offset` is {}", state["nested_offset"]))?,
            })
        }
    };
    let scales = place_of(part("absmax", if nested.is_some() { blocks } else { 4 * blocks })?);
    let map = place_of(part("quant_map", 4 * 16)?);
    let parts = Nf4Parts { dtype, block, map, scales, nested };
    let mut place = codes.clone();
    place.shape = vec![rows, columns];
    place.encoding = Encoding::Nf4(Box::new(parts));
    Ok(place)
}

/// The matrix at `place`. Error: what is wrong with it, after its name.
pub(super) fn matrix<'a>(
    place: &TensorLocation,
    bytes: impl Fn(&TensorLocation) -> &'a [u8],
) -> Result<Nf4Matrix, String> {
    let (Encoding::Nf4(parts), &[rows, columns]) = (&place.encoding, place.shape.as_slice()) else {
        return Err("is no NF4 matrix".to_owned());
    };
    let part = |part: &BlockPlace| {
        bytes(&TensorLocation { shard: part.shard, bytes: part.bytes.clone(), ..place.clone() })
    };
    let numbers = |place: &BlockPlace| -> Result<Vec<f32>, String> {
        let values: Vec<f32> = part(place)
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err("has a scale that is a NaN or an infinity".to_owned()),
        }
    };
    let scales = match &parts.nested {
        None => Nf4Scales::Plain(numbers(&parts.scales)?),
        Some(nested) => Nf4Scales::Nested {
            codes: part(&parts.scales).to_vec(),
            map: numbers(&nested.map)?,
            scales: numbers(&nested.scales)?,
            block: nested.block,
            mean: nested.mean,
        },
    };
    let map = numbers(&parts.map)?;
    Nf4Matrix::of_parts([rows, columns], bytes(place).to_vec(), &map, scales, parts.block)
        .ok_or_else(|| "has parts that do not fit each other".to_owned())
}
