//! Weights on their way to a GPU: the same numbers as on the CPU, copied while others are read, and never read too early.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use selfplay_model::gpu::emulate;
use selfplay_model::{Decoder, LoadOptions};
use selfplay_records::atomic;
use selfplay_testing::families::{FAMILIES, decoder};
use selfplay_testing::{DeviceCounts, Emulator, LateEmulator};

/// A model of a family as it lies on disk.
fn written(family: &str, dtype: DType, shard_bytes: usize) -> (tempfile::TempDir, Decoder) {
    let folder = tempfile::tempdir().unwrap();
    let model = decoder(family, DType::F32);
    model.save(folder.path(), Some(dtype), shard_bytes).unwrap();
    (folder, model)
}

fn load(folder: &Path, dtype: DType) -> Result<Decoder, String> {
    let options = LoadOptions { device: Device::Cpu, dtype: Some(dtype), ..LoadOptions::default() };
    Decoder::load(folder, &options).map_err(|error| error.to_string())
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn all_numbers(decoder: &Decoder) -> Vec<(String, Vec<f32>)> {
    decoder.parameters().iter().map(|(_, one)| (one.name.clone(), numbers(&one.value))).collect()
}

#[test]
fn a_gpu_gets_the_numbers_of_the_files() {
    let Some(late) = LateEmulator::build() else { return };
    for family in FAMILIES {
        for (stored, shard_bytes) in [(DType::BF16, usize::MAX), (DType::F32, 20_000)] {
            let (folder, _) = written(family, stored, shard_bytes);
            // As the CPU decodes them.
            let want = all_numbers(&load(folder.path(), DType::F32).unwrap());
            let before = late.counts();
            let _gpu = emulate(Arc::new(late.clone()));
            let got = load(folder.path(), stored).unwrap();
            assert_eq!(got.dtype(), stored);
            assert!(all_numbers(&got) == want, "{family} {stored:?}");
            let DeviceCounts { launches, bytes_in, bytes_out, .. } = late.counts();
            let bytes: usize = got.parameters().iter().map(|(_, one)| one.footprint()).sum();
            // Every byte goes there once, by copies alone: nothing is joined, converted or cut on the device.
            assert_eq!((bytes_in - before.bytes_in, launches - before.launches), (bytes, 0), "{family}");
            assert_eq!(bytes_out, before.bytes_out);
        }
    }
}

/// What is stored otherwise than it is computed with is decoded on the host, as ever.
#[test]
fn other_numbers_are_decoded_first() {
    let (folder, _) = written("llama", DType::F16, usize::MAX);
    let want = all_numbers(&load(folder.path(), DType::F32).unwrap());
    let Some(_gpu) = Emulator::start() else { return };
    assert!(all_numbers(&load(folder.path(), DType::F32).unwrap()) == want);
}

#[test]
fn a_number_that_is_not_finite_is_named_as_on_the_cpu() {
    let (folder, model) = written("llama", DType::F32, usize::MAX);
    let names: Vec<&str> = model.parameters().iter().map(|(_, one)| one.name.as_str()).collect();
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    // In two tensors, the later one first: the earlier one is named.
    for (name, index) in [(names[names.len() - 1], 0), (names[5], 3), (names[5], 9)] {
        let offset = header[name]["data_offsets"][0].as_u64().unwrap() as usize;
        let at = 8 + length + offset + 4 * index;
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    atomic::write_bytes(&path, &bytes).unwrap();
    let want = load(folder.path(), DType::F32).err().unwrap();
    assert!(want.contains("flat index 3"), "{want}");
    let Some(_gpu) = Emulator::start() else { return };
    assert_eq!(load(folder.path(), DType::F32).err().unwrap(), want);
}
