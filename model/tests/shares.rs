//! A model that several ranks load, each its own ranges of it: together they have what one process loads.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use selfplay_model::weights::WeightFiles;
use selfplay_model::{Architecture, Decoder, LoadOptions, ModelShare, Quantization, tensor_memory};
use selfplay_testing::decoder::{architecture, config};
use selfplay_testing::families::{FAMILIES, decoder};
use selfplay_testing::gguf;

/// Matrices that are cut (of more than 64 Ki numbers), and ones that are not.
fn wide(tied: bool) -> Decoder {
    let shape = serde_json::json!({
        "vocab_size": 1100, "hidden_size": 64, "intermediate_size": 1100, "tie_word_embeddings": tied,
    });
    selfplay_testing::decoder(&config(shape), 7)
}

fn written(model: &Decoder, dtype: DType, shard_bytes: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path(), Some(dtype), shard_bytes).unwrap();
    folder
}

fn of_rank(rank: usize, world: usize) -> LoadOptions {
    LoadOptions { share: Some(ModelShare { rank, world }), ..LoadOptions::default() }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let numbers = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    numbers.into_iter().map(f32::to_bits).collect()
}

/// Every tensor of a folder or a GGUF, whole and in ranges.
fn ranges_of(path: &Path) {
    let (arch, files) = (Architecture::load(path).unwrap(), WeightFiles::open(path).unwrap());
    for spec in arch.tensors() {
        let count: usize = spec.shape.iter().product();
        for dtype in [DType::F32, DType::BF16] {
            let whole = bits(&files.get(&spec, dtype, &Device::Cpu).unwrap());
            for range in [0..count, 0..1, count - 1..count, count / 3..count / 2, count..count] {
                let part = files.get_range(&spec, range.clone(), dtype, &Device::Cpu).unwrap();
                assert_eq!((part.dims(), part.dtype()), (&[range.len()][..], dtype), "{}", spec.name);
                assert!(bits(&part) == whole[range.clone()], "{} {range:?} {}", spec.name, path.display());
            }
        }
        let error = files.get_range(&spec, 0..count + 1, DType::F32, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains(&spec.name) && error.contains(&count.to_string()), "{error}");
    }
}

#[test]
fn a_range_has_the_numbers_that_the_whole_has_there() {
    for family in FAMILIES {
        for (dtype, shard_bytes) in [(DType::F32, 20_000), (DType::BF16, usize::MAX), (DType::F16, 20_000)] {
            ranges_of(written(&decoder(family, DType::F32), dtype, shard_bytes).path());
        }
    }
    // Rows of queries and keys change places.
    let folder = tempfile::tempdir().unwrap();
    ranges_of(&gguf::model("llama").write(folder.path()));
}

/// Blocks of 32 numbers: a range that begins and ends with one is read by itself, another one with the whole.
#[test]
fn a_range_of_blocks_has_their_numbers() {
    let mut parts = gguf::model("llama");
    // [3, 32] numbers in Q8_0: a block has a scale and 32 numbers of eight bits.
    let blocks: Vec<u8> = (0..3u8)
        .flat_map(|block| {
            let scale = half::f16::from_f32(0.25 * f32::from(block + 1)).to_le_bytes();
            scale.into_iter().chain((0..32u8).map(move |number| number.wrapping_mul(7)))
        })
        .collect();
    let place = parts.tensors.iter().position(|part| part.name == "token_embd.weight").unwrap();
    parts.tensors.remove(place);
    let tensor =
        gguf::TensorPart { name: "token_embd.weight".into(), dims: vec![32, 3], kind: 8, bytes: blocks };
    parts.tensors.push(tensor);
    let folder = tempfile::tempdir().unwrap();
    let files = WeightFiles::open(&parts.write(folder.path())).unwrap();
    let spec = selfplay_model::architecture::TensorSpec {
        name: "model.embed_tokens.weight".into(),
        shape: vec![3, 32],
        kind: selfplay_model::ParameterKind::Embedding,
    };
    let whole = bits(&files.get(&spec, DType::F32, &Device::Cpu).unwrap());
    for range in [0..32, 32..96, 64..96, 5..40] {
        let part = files.get_range(&spec, range.clone(), DType::F32, &Device::Cpu).unwrap();
        assert!(bits(&part) == whole[range.clone()], "{range:?}");
    }
}

/// Loads every rank's share, and checks that each number of `whole` is with one of them, and that none has more.
#[track_caller]
fn shares_are(whole: &Decoder, world: usize, load: impl Fn(&LoadOptions) -> Decoder) {
    assert!(!whole.is_divided());
    let names: BTreeMap<_, _> = whole.parameters().iter().map(|(id, one)| (id, one.name.clone())).collect();
    let mut found: BTreeMap<String, Vec<Option<u32>>> = BTreeMap::new();
    for (_, one) in whole.parameters().iter() {
        found.insert(one.name.clone(), vec![None; one.value.elem_count()]);
    }
    let mut counts = Vec::new();
    for rank in 0..world {
        let mut share = load(&of_rank(rank, world));
        assert!(share.is_divided());
        let ids: Vec<_> = share.parameters().iter().map(|(id, _)| id).collect();
        // What computes together lies together.
        let members = |decoder: &Decoder| -> Vec<_> {
            decoder.parameters().owners(&ids).into_iter().map(|owner| owner.members).collect()
        };
        assert_eq!(members(&share), members(whole));
        for owner in share.parameters().owners(&ids) {
            let name = &names[&owner.members[0]];
            let is_there = tensor_memory::is_whole(&owner.tensor);
            assert_eq!(is_there, name == "model.norm.weight", "{name}");
            if is_there && rank == 0 {
                let values = bits(&owner.tensor).into_iter().map(Some).collect();
                found.insert(name.clone(), values);
            }
        }
        let held = share.parameters_mut().take_held().unwrap();
        assert!(!share.parameters().has_held());
        for (id, range) in &held {
            let parameter = share.parameters().get(*id);
            assert_eq!(parameter.value.dims(), whole.parameters().get(*id).value.dims());
            assert_eq!(range.values.dims(), [range.numbers.len()]);
            let places = &mut found.get_mut(&parameter.name).unwrap()[range.numbers.clone()];
            for (place, value) in places.iter_mut().zip(bits(&range.values)) {
                assert!(place.replace(value).is_none(), "{} is with two ranks", parameter.name);
            }
        }
        counts.push(held.values().map(|range| range.numbers.len()).sum::<usize>());
    }
    for (_, one) in whole.parameters().iter() {
        let want: Vec<Option<u32>> = bits(&one.value).into_iter().map(Some).collect();
        assert!(found[&one.name] == want, "{}", one.name);
    }
    let all = whole.parameters().element_count();
    let most = counts.iter().max().unwrap();
    assert!(*most <= all / world + 2 * selfplay_model::shares::UNIT, "{counts:?} of {all}");
}

#[test]
fn shares_together_are_the_model_and_no_rank_has_more() {
    for (tied, dtype, shard_bytes) in
        [(false, DType::F32, usize::MAX), (true, DType::BF16, 300_000), (false, DType::F16, 300_000)]
    {
        let folder = written(&wide(tied), dtype, shard_bytes);
        let load = |options: &LoadOptions| Decoder::load(folder.path(), options).unwrap();
        for world in [2, 3] {
            shares_are(&load(&LoadOptions::default()), world, load);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = gguf::model("llama").write(folder.path());
    let load = |options: &LoadOptions| Decoder::load(&path, options).unwrap();
    shares_are(&load(&LoadOptions::default()), 2, load);
    // Fresh weights.
    let shape = serde_json::json!({"vocab_size": 1100, "hidden_size": 64, "intermediate_size": 1100});
    let fresh =
        |options: &LoadOptions| Decoder::random(architecture(&config(shape.clone())), 7, options).unwrap();
    shares_are(&wide(false), 2, fresh);
}

#[test]
fn a_number_that_is_not_finite_is_named_by_the_rank_that_holds_it() {
    let model = wide(false);
    let embedding = model.parameters().find("model.embed_tokens.weight").unwrap();
    let row = Tensor::full(f32::NAN, (1, 64), &Device::Cpu).unwrap();
    // The last unit of two, and thereby the second rank's.
    model.parameters().get(embedding).value.slice_set(&row, 0, 1090).unwrap();
    let folder = written(&model, DType::F32, usize::MAX);
    let load =
        |rank| Decoder::load(folder.path(), &of_rank(rank, 2)).map(drop).map_err(|error| error.to_string());
    assert_eq!(load(0), Ok(()));
    let error = load(1).unwrap_err();
    let place = format!("model.embed_tokens.weight holds a NaN or an infinity at flat index {}", 1090 * 64);
    assert!(error.contains(&place), "{error}");
}

#[test]
fn maps_of_four_bits_are_loaded_whole_and_a_rank_counts_from_0() {
    let folder = written(&wide(false), DType::F32, usize::MAX);
    let quantized = LoadOptions { quantize: Some(Quantization::Nf4), ..of_rank(0, 2) };
    let decoder = Decoder::load(folder.path(), &quantized).unwrap();
    assert!(!decoder.is_divided() && decoder.is_quantized());
    let error = Decoder::load(folder.path(), &of_rank(2, 2)).map(drop).unwrap_err().to_string();
    assert!(error.contains("rank 2 of 2"), "{error}");
}
