//! Room for weights in the host's memory, in pages of two megabytes where the system has them.
//!
//! A process gets memory page by page when it first writes there, and the system clears each page before: for pages of four kilobytes that
//! takes longer than reading the weights does (docs/log.md). Only pages that lie within the room as a whole are asked for, all of which is
//! written, so that nothing takes more memory than before.

use candle_core::{DType, Result, Tensor};

use super::storage::{tensor_of, unwritten};
use super::{Real, by_dtype};

/// Bytes from which on it is worth asking.
const LEAST: usize = 8 << 20;

/// Room for a tensor of `dtype` (f32, f64) that is about to be written whole.
///
/// # Errors
/// A dtype that the CPU does not compute in.
pub(crate) fn weight_room(shape: &[usize], dtype: DType) -> Result<Tensor> {
    by_dtype!(dtype, T => {
        let mut room = unwritten::<T>(shape.iter().product());
        ask_for_huge_pages(&mut room);
        tensor_of(room, shape)
    })
}

#[cfg(target_os = "linux")]
fn ask_for_huge_pages<T: Real>(room: &mut [T]) {
    /// Of x86-64 and of most of aarch64.
    const PAGE: usize = 2 << 20;
    let bytes = size_of_val(room);
    if bytes < LEAST {
        return;
    }
    let begin = room.as_mut_ptr() as usize;
    let (first, end) = (begin.next_multiple_of(PAGE), (begin + bytes) / PAGE * PAGE);
    // SAFETY: the pages are the room's own, and the advice changes nothing of what is in them.
    let asked = unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE) };
    if asked != 0 {
        // Systems without them are as right.
        tracing::debug!("weights are not in huge pages: {}", std::io::Error::last_os_error());
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages<T: Real>(room: &mut [T]) {
    let _ = (room, LEAST);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::storage::{with_slice, with_slice_mut};

    #[test]
    fn a_room_holds_what_is_written_whatever_its_size() {
        for count in [3, (LEAST / 4) + 1, (2 * LEAST / 4) + 12_345] {
            let room = weight_room(&[count], DType::F32).unwrap();
            with_slice_mut(&room, |values: &mut [f32]| {
                values.iter_mut().enumerate().for_each(|(index, value)| *value = index as f32);
            })
            .unwrap();
            let is_there =
                |values: &[f32]| values.iter().enumerate().all(|(index, value)| *value == index as f32);
            assert!(with_slice(&room, is_there).unwrap());
        }
        assert_eq!(weight_room(&[2, 3], DType::F64).unwrap().dims(), [2, 3]);
        assert!(weight_room(&[2], DType::U8).is_err());
    }
}
