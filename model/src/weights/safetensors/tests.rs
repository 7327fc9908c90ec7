//! What is written, read and refused.

use std::path::Path;

use candle_core::{Device, Tensor};
use selfplay_records::atomic;

use super::*;
use crate::architecture::StoredDtype;
use crate::error::ModelError;

fn write_named(path: &Path, tensors: &[NamedTensor]) -> String {
    let pairs: Vec<_> = tensors.iter().map(|n| (n.name.as_str(), &n.tensor)).collect();
    write(path, &pairs, StoredDtype::F32).unwrap()
}

fn named(name: &str, values: &[f32], shape: &[usize]) -> NamedTensor {
    NamedTensor { name: name.into(), tensor: Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap() }
}

#[test]
fn what_is_written_comes_back_bit_for_bit_and_safetensors_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    let tensors =
        [named("b", &[1.0, -0.0, f32::MIN_POSITIVE / 8.0, 3.4e38], &[2, 2]), named("a", &[0.1], &[1])];
    let hash = write_named(&path, &tensors);
    let bytes = std::fs::read(&path).unwrap();
    let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("b").unwrap().shape(), [2, 2]);
    assert_eq!(theirs.tensor("a").unwrap().data(), 0.1f32.to_le_bytes());
    let into = [named("a", &[9.0], &[1]), named("b", &[9.0; 4], &[2, 2])];
    TensorFile::open(&path, Some(&hash)).unwrap().read_into(&into).unwrap();
    let bits = |t: &Tensor| -> Vec<u32> {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
    };
    assert_eq!(bits(&into[1].tensor), bits(&tensors[0].tensor));
    let all = TensorFile::open(&path, Some(&hash)).unwrap().read_all(&Device::Cpu).unwrap();
    assert_eq!((all[0].name.as_str(), all[0].tensor.dims()), ("b", &[2usize, 2][..]));
}

#[test]
fn bytes_are_stored_as_they_are_beside_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    let bytes = Tensor::from_vec(vec![0u8, 127, 128, 255, 3], 5, &Device::Cpu).unwrap();
    let tensors = [NamedTensor { name: "codes".into(), tensor: bytes }, named("a", &[0.5, 2.0], &[2])];
    let hash = write_named(&path, &tensors);
    let stored = std::fs::read(&path).unwrap();
    let theirs = ::safetensors::SafeTensors::deserialize(&stored).unwrap();
    assert_eq!(theirs.tensor("codes").unwrap().data(), [0, 127, 128, 255, 3]);
    let all = TensorFile::open(&path, Some(&hash)).unwrap().read_all(&Device::Cpu).unwrap();
    assert_eq!(all[0].tensor.to_vec1::<u8>().unwrap(), [0, 127, 128, 255, 3]);
    assert_eq!(all[1].tensor.to_vec1::<f32>().unwrap(), [0.5, 2.0]);
    let into = [named("codes", &[0.0; 5], &[5]), named("a", &[9.0; 2], &[2])];
    let refused = TensorFile::open(&path, None).unwrap().read_into(&into).unwrap_err().to_string();
    assert!(refused.contains("\"codes\" of U8"), "{refused}");
}

#[test]
fn damage_and_misfits_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    write_named(&path, &[named("a", &[1.0, 2.0], &[2])]);
    let read = |into: &[NamedTensor]| {
        TensorFile::open(&path, None).and_then(|f| f.read_into(into)).unwrap_err().to_string()
    };
    assert!(read(&[named("a", &[0.0], &[1])]).contains("shape"));
    assert!(read(&[named("c", &[0.0], &[1])]).contains("\"c\""));
    assert!(read(&[]).contains("lacks"));
    let bytes = std::fs::read(&path).unwrap();
    atomic::write_bytes(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(read(&[]).contains("promises"));
    let mut absurd = bytes.clone();
    absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    atomic::write_bytes(&path, &absurd).unwrap();
    assert!(read(&[]).contains("header of"));
    let text = |from: &str, to: &str| {
        let header = String::from_utf8_lossy(&bytes[8..bytes.len() - 8]).replace(from, to);
        let length = (header.len() as u64).to_le_bytes();
        let parts = [&length[..], header.as_bytes(), &bytes[bytes.len() - 8..]].concat();
        atomic::write_bytes(&path, &parts).unwrap();
        read(&[])
    };
    assert!(text("\"__metadata__\"", "__metadata__").contains("not JSON"));
    assert!(text("[0,8]", "[0,9]").contains("header is wrong"));
    assert!(text("[2]", "[4611686018427387904,2]").contains("header is wrong"));
    assert!(text("\"F32\",\"shape\":[2]", "\"F64\",\"shape\":[1]").contains("not a whole tensor of f32"));
}

/// Byte for byte what the format's reference writer makes of the same tensors, but for its order of entries.
#[test]
fn the_bytes_are_fixed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    write_named(&path, &[named("b", &[1.0, -2.0], &[1, 2]), named("a", &[0.5], &[1])]);
    let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#;
    let padded = format!("{header:<width$}", width = header.len().next_multiple_of(8));
    let mut want = (padded.len() as u64).to_le_bytes().to_vec();
    want.extend(padded.as_bytes());
    want.extend([1.0f32, -2.0, 0.5].iter().flat_map(|x| x.to_le_bytes()));
    assert_eq!(std::fs::read(&path).unwrap(), want);
}

#[test]
fn every_flipped_byte_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    let hash = write_named(&path, &[named("a", &[1.0, 2.0], &[2]), named("b", &[0.5], &[1])]);
    let bytes = std::fs::read(&path).unwrap();
    for place in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1 << (place % 8);
        atomic::write_bytes(&path, &flipped).unwrap();
        let read = |file: TensorFile| file.read_all(&Device::Cpu);
        let error = TensorFile::open(&path, Some(&hash)).and_then(read).expect_err(&format!("byte {place}"));
        assert!(matches!(error, ModelError::Damaged { .. }), "{error}");
    }
}
