//! Files of tensors that ranks hold by ranges: the same bytes as one rank writes.
//!
//! All ranks go through the same list. A tensor is gathered when its turn comes and written by rank 0, so that one tensor at a
//! time is in memory twice; it is read by rank 0 and each rank takes its range.

use std::cell::Cell;
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use selfplay_model::StoredDtype;
use selfplay_model::weights::Stored;
use selfplay_model::weights::safetensors::{self, TensorFile};

use crate::TrainError;
use crate::collective::sliced::part;
use crate::collective::{Collective, Sliced, agree, is_first};

/// A tensor of a file, by ranges.
pub(crate) struct Item {
    pub name: String,
    pub dims: Vec<usize>,
    /// f32, or u8.
    pub dtype: DType,
    /// By rank.
    pub ranges: Vec<Range<usize>>,
    /// This rank's numbers, flat; `None` where it has none.
    pub own: Option<Tensor>,
}

/// All of a tensor, on `device`.
///
/// # Errors
/// A rank is lost; out of memory.
pub(crate) fn gather(
    collective: &dyn Collective,
    item: &Item,
    device: &Device,
) -> Result<Tensor, TrainError> {
    let whole = Tensor::zeros(item.dims.as_slice(), item.dtype, device)?;
    if let Some(own) = &item.own {
        part(&whole, &item.ranges[collective.rank()])?.slice_set(&own.to_device(device)?, 0, 0)?;
    }
    collective.all_gather_slices(&[Sliced { tensor: &whole, ranges: &item.ranges }])?;
    collective.settle()?;
    Ok(whole)
}

/// Writes a file, in the order given, numbers as f32, where there is a path; every rank calls it, rank 0 with the path. Returns the
/// file's SHA-256 there. Ranks gather all tensors also where rank 0 can't write: they agree on that afterwards.
///
/// # Errors
/// A failed write, on rank 0; a rank that is lost.
pub(crate) fn write_gathered(
    collective: &dyn Collective,
    path: Option<&Path>,
    items: &[Item],
    device: &Device,
) -> Result<String, TrainError> {
    let done = Cell::new(0);
    let next = || {
        let item = &items[done.get()];
        done.set(done.get() + 1);
        gather(collective, item, device)
    };
    let written = match path {
        Some(path) => {
            let make = || next().map_err(|error| candle_core::Error::Msg(error.to_string()));
            let stored: Vec<(&str, Stored<'_>)> = items
                .iter()
                .map(|item| {
                    let (dims, make) = (item.dims.as_slice(), Box::new(make));
                    let stored = match item.dtype {
                        DType::U8 => Stored::MadeBytes { dims, make },
                        _ => Stored::Made { dims, make },
                    };
                    (item.name.as_str(), stored)
                })
                .collect();
            safetensors::write_stored(path, &stored, StoredDtype::F32).map_err(TrainError::from)
        }
        None => Ok(String::new()),
    };
    while done.get() < items.len() {
        next()?;
    }
    written
}

/// Reads a file that [`write_gathered`] or one rank has written, by rank 0, into the ranks' ranges; every rank calls it. `sha256`
/// is rank 0's.
///
/// # Errors
/// A damaged file, or one of other tensors, on rank 0; another rank's error. The tensors are then of no use.
pub(crate) fn read_scattered(
    collective: &dyn Collective,
    path: &Path,
    sha256: Option<&str>,
    items: &[Item],
    device: &Device,
) -> Result<(), TrainError> {
    let opened = match is_first(collective) {
        true => TensorFile::open(path, sha256).map(Some).map_err(TrainError::from),
        false => Ok(None),
    };
    let mut file = agree(collective, opened)?;
    for item in items {
        let read = match &mut file {
            Some(file) => read_item(file, path, item, device),
            None => Ok(Tensor::zeros(item.dims.as_slice(), item.dtype, device)?),
        };
        let whole = agree(collective, read)?;
        collective.broadcast(&[&whole], 0)?;
        if let Some(own) = &item.own {
            let mine = part(&whole, &item.ranges[collective.rank()])?.force_contiguous()?;
            own.slice_set(&mine.to_device(own.device())?, 0, 0)?;
        }
    }
    let ended = match file {
        Some(file) if file.has_next() => {
            Err(misfit(path, "it has more tensors than this training".to_owned()))
        }
        Some(file) => file.finish().map_err(TrainError::from),
        None => Ok(()),
    };
    agree(collective, ended)
}

fn read_item(file: &mut TensorFile, path: &Path, item: &Item, device: &Device) -> Result<Tensor, TrainError> {
    if !file.has_next() {
        return Err(misfit(path, format!("no tensor {:?}, which this training has", item.name)));
    }
    let found = file.read_next()?;
    let tensor = &found.tensor;
    if found.name != item.name || tensor.dims() != item.dims || tensor.dtype() != item.dtype {
        let problem = format!(
            "tensor {:?} of {:?} {:?} in the place of {:?} of {:?} {:?}",
            found.name,
            tensor.dtype(),
            tensor.dims(),
            item.name,
            item.dtype,
            item.dims
        );
        return Err(misfit(path, problem));
    }
    Ok(tensor.to_device(device)?)
}

fn misfit(path: &Path, problem: String) -> TrainError {
    TrainError::Checkpoint { path: path.to_owned(), problem }
}
