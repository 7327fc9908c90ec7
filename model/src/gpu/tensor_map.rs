//! What a copy of a tile by Hopper's tensor memory accelerator is told of a matrix (`copy_tile` in `gpu/cuda/hopper.cuh`).

use candle_core::{DType, Result, Tensor, bail};

use super::{TensorMap, address};

impl TensorMap {
    /// The whole of a contiguous matrix of bf16, \[rows, columns], neither 0.
    ///
    /// # Errors
    /// What no copy of a tile can take: another dtype, rows or a start off the 16-byte grid, more than 256 rows of the box.
    pub fn of(tensor: &Tensor, box_rows: usize) -> Result<Self> {
        let (rows, columns) = tensor.dims2()?;
        let map = Self { pointer: address(tensor)?, rows, columns, box_rows };
        let sides = 1..=u32::MAX as usize;
        let takes = tensor.dtype() == DType::BF16
            && map.pointer.is_multiple_of(16)
            && columns.is_multiple_of(8)
            && sides.contains(&rows)
            && sides.contains(&columns)
            && (1..=256).contains(&box_rows);
        if !takes {
            bail!("no tiles of {box_rows} rows can be copied from {:?} {:?}", tensor.dtype(), tensor.dims())
        }
        Ok(map)
    }
}

#[cfg(feature = "cuda")]
mod encoded {
    use std::ffi::c_void;

    use candle_core::Result;
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::sys;

    use crate::gpu::launcher::{TILE_COLUMNS, TensorMap};

    impl TensorMap {
        /// As the driver has it (`cuTensorMapEncodeTiled`): sizes, strides and the box from the columns on.
        ///
        /// # Errors
        /// What the driver says.
        pub(in crate::gpu) fn encode(&self) -> Result<sys::CUtensorMap> {
            let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
            let sizes = [self.columns as u64, self.rows as u64];
            let row_bytes = [(self.columns * 2) as u64];
            let (tile, steps) = ([TILE_COLUMNS as u32, self.box_rows as u32], [1u32, 1]);
            // SAFETY: all arrays are of the rank's lengths and outlive the call; the driver dereferences none of the device's
            // addresses.
            let done = unsafe {
                sys::cuTensorMapEncodeTiled(
                    &raw mut encoded,
                    sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                    2,
                    self.pointer as *mut c_void,
                    sizes.as_ptr(),
                    row_bytes.as_ptr(),
                    tile.as_ptr(),
                    steps.as_ptr(),
                    sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                    sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                    sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                    sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
                )
            };
            done.result().w()?;
            Ok(encoded)
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn what_no_copy_takes_is_refused() {
        let matrix = |rows, columns, dtype| Tensor::zeros((rows, columns), dtype, &Device::Cpu).unwrap();
        let good = matrix(5, 24, DType::BF16);
        let map = TensorMap::of(&good, 128).unwrap();
        assert_eq!((map.rows, map.columns, map.box_rows), (5, 24, 128));
        assert!(TensorMap::of(&good, 257).is_err());
        assert!(TensorMap::of(&good.narrow(0, 0, 0).unwrap(), 8).is_err());
        assert!(TensorMap::of(&matrix(5, 20, DType::BF16), 8).is_err());
        assert!(TensorMap::of(&matrix(5, 24, DType::F32), 8).is_err());
        assert!(TensorMap::of(&good.t().unwrap(), 8).is_err());
    }
}
