//! Keys and values in E4M3 on a CPU: codes with a scale for each token and head (see [`crate::KvFormat`]).

use candle_core::{Result, Tensor};

use super::step::Query;
use crate::cpu::Real;
use crate::cpu::e4m3::{E4M3_MAX, from_e4m3, to_e4m3};
use crate::cpu::parallel::{SharedMut, for_each};
use crate::cpu::simd::{prefetch, simd};
use crate::cpu::storage::{with_bytes_mut, with_slice, with_slice_mut};
use crate::kv_cache::{LayerCache, PAGE_TOKENS, PageScales};
use crate::ops::attention::Attention;

/// Tokens of one task at most.
const TOKENS: usize = 16;
/// Bytes that one prefetch brings.
const LINE: usize = 64;

/// What the codes of these numbers are multiplied by, so that the largest has the largest code: 1 for zeros, NaN where one is not
/// finite, so that it shows whatever the codes are. `e4m3_scale` of gpu/cuda/e4m3.cuh gives the same.
fn scale_of<T: Real>(numbers: &[T]) -> f32 {
    let size = |x: &T| (x.wide() as f32).abs();
    let larger = |most: f32, x: f32| if x < f32::INFINITY { most.max(x) } else { f32::INFINITY };
    match numbers.iter().map(size).fold(0.0, larger) {
        f32::INFINITY => f32::NAN,
        0.0 => 1.0,
        // What is divided by it must not become infinite.
        largest => (largest / E4M3_MAX).max(f32::MIN_POSITIVE),
    }
}

fn code_of<T: Real>(x: T, scale: f32) -> u8 {
    to_e4m3(x.wide() as f32 / scale)
}

/// Puts the new tokens' keys and values into their rows' pages; `qkv` after rope.
pub(super) fn write<T: Real>(
    attention: &Attention,
    qkv: &Tensor,
    queries: &[Query],
    cache: &LayerCache,
    scales: &PageScales,
) -> Result<()> {
    with_slice::<T, _>(qkv, |qkv| {
        with_bytes_mut(&cache.keys, |keys| {
            with_bytes_mut(&cache.values, |values| {
                with_slice_mut::<f32, _>(&scales.keys, |key_scales| {
                    with_slice_mut::<f32, _>(&scales.values, |value_scales| {
                        let room = CodeRoom {
                            keys: SharedMut::new(keys),
                            values: SharedMut::new(values),
                            key_scales: SharedMut::new(key_scales),
                            value_scales: SharedMut::new(value_scales),
                        };
                        for_each(queries.len().div_ceil(TOKENS), |task| {
                            for token in task * TOKENS..((task + 1) * TOKENS).min(queries.len()) {
                                let row = &qkv[token * attention.width()..][..attention.width()];
                                room.write_token(attention, row, &queries[token]);
                            }
                        });
                    })
                })
            })
        })
    })????
}

/// A layer's pages while they are written.
struct CodeRoom {
    keys: SharedMut<u8>,
    values: SharedMut<u8>,
    key_scales: SharedMut<f32>,
    value_scales: SharedMut<f32>,
}

impl CodeRoom {
    /// One token; `row` \[(heads + 2·kv_heads)·d] has its queries, keys and values.
    fn write_token<T: Real>(&self, attention: &Attention, row: &[T], query: &Query) {
        let (d, kv_heads) = (attention.head_dim, attention.kv_heads);
        let (page, slot) = (query.pages[query.position / PAGE_TOKENS], query.position % PAGE_TOKENS);
        for head in 0..kv_heads {
            let block = (page as usize * kv_heads + head) * PAGE_TOKENS;
            let k = &row[(attention.heads + head) * d..][..d];
            let scale = scale_of(k);
            // SAFETY (all of this function): a slot of a page belongs to one token of one row; rows that share a page only read it
            // (`Decoder::forward_paged` refuses others).
            unsafe { self.key_scales.range(block + slot, 1)[0] = scale };
            for (i, &x) in k.iter().enumerate() {
                // SAFETY: as above.
                unsafe { self.keys.range(block * d + i * PAGE_TOKENS + slot, 1)[0] = code_of(x, scale) };
            }
            let v = &row[(attention.heads + kv_heads + head) * d..][..d];
            let scale = scale_of(v);
            // SAFETY: as above.
            unsafe { self.value_scales.range(block + slot, 1)[0] = scale };
            // SAFETY: as above.
            let codes = unsafe { self.values.range((block + slot) * d, d) };
            codes.iter_mut().zip(v).for_each(|(code, &x)| *code = code_of(x, scale));
        }
    }
}

simd! {
    /// What codes mean, before their scales; fetches as many bytes at `next` on the way.
    pub(super) fn read_codes<T: Real>(codes: &[u8], numbers: &mut [T], next: *const u8) {
        for line in (0..codes.len()).step_by(LINE) {
            prefetch(next.wrapping_add(line));
        }
        for (number, &code) in numbers.iter_mut().zip(codes) {
            *number = T::of(f64::from(from_e4m3(code)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_number_has_the_largest_code_and_all_are_near() {
        let numbers: Vec<f32> = (0..64).map(|i| ((i * 37 + 5) % 64) as f32 / 9.0 - 3.3).collect();
        let scale = scale_of(&numbers);
        let most = numbers.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert_eq!(scale, most / 448.0);
        let codes: Vec<u8> = numbers.iter().map(|&x| code_of(x, scale)).collect();
        assert!(codes.iter().any(|code| code & 0x7f == 0x7e));
        let mut back = vec![0.0f32; 64];
        read_codes(&codes, &mut back, codes.as_ptr());
        for (x, code) in numbers.iter().zip(back) {
            // Half of the last of four digits, or half of the smallest step.
            let bound = (x.abs() / 16.0).max(scale / 1024.0) * (1.0 + 1e-5);
            assert!((x - code * scale).abs() <= bound, "{x} became {}", code * scale);
        }
    }

    #[test]
    fn zeros_stay_zeros_and_what_is_not_finite_shows() {
        assert_eq!((scale_of(&[0.0f32; 5]), code_of(0.0f32, 1.0)), (1.0, 0));
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(scale_of(&[1.0, x, 2.0]).is_nan(), "{x}");
        }
        // A row so small that its scale would be 0, beside a zero.
        let scale = scale_of(&[f32::from_bits(3), 0.0]);
        assert!(scale > 0.0);
        assert_eq!((code_of(0.0f32, scale), from_e4m3(code_of(f32::from_bits(3), scale))), (0, 0.0));
        // f64's numbers are rounded to f32 first.
        assert_eq!(scale_of(&[-896.0f64, 3.0]), 2.0);
    }
}
