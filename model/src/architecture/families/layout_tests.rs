//! What the description of modules must be able to express: the same weights stored apart and together, with every bias.

use candle_core::{Device, Tensor};
use serde_json::json;

use super::{Family, llama, phi, testing};
use crate::architecture::Architecture;
use crate::architecture::layout::{self, LayerModules, LayerNames};
use crate::cpu::storage::with_slice;
use crate::{Decoder, Gradients, LoadOptions, PackedBatch, ParameterId};

/// Llama with queries, keys and values in one matrix, gate and up in another, as Phi-3 stores them.
const FUSED: Family = Family {
    model_type: "fused",
    class: "FusedForCausalLM",
    modules: |a| layout::modules(a, phi::fused),
    ..llama::LLAMA
};

/// A norm on queries without one on keys, which is no layout.
fn queries_alone(a: &Architecture, names: &LayerNames) -> LayerModules {
    LayerModules { q_norm: Some(names.norm("self_attn.q_norm", a.head_dim)), ..layout::layer(a, names) }
}

/// Three layers with all biases and fewer keys than queries.
fn split() -> Architecture {
    let keys = json!({"attention_bias": true, "mlp_bias": true, "max_position_embeddings": 64});
    testing::read("llama", keys)
}

/// The parts of a fused parameter under their own names; the name itself of any other.
fn parts(name: &str) -> Vec<String> {
    for (joined, parts) in
        [("qkv_proj", &["q_proj", "k_proj", "v_proj"][..]), ("gate_up_proj", &["gate_proj", "up_proj"])]
    {
        if name.contains(joined) {
            return parts.iter().map(|part| name.replace(joined, part)).collect();
        }
    }
    vec![name.to_owned()]
}

fn joined(names: &[String], get: impl Fn(ParameterId) -> Tensor, decoder: &Decoder) -> Tensor {
    let tensors: Vec<Tensor> =
        names.iter().map(|name| get(decoder.parameters().find(name).unwrap())).collect();
    Tensor::cat(&tensors, 0).unwrap()
}

/// The same weights stored both ways.
fn decoders() -> (Decoder, Decoder) {
    let options = LoadOptions::default();
    let separate = Decoder::random(split(), 7, &options).unwrap();
    for (id, parameter) in separate.parameters().iter() {
        // Fresh biases are 0 and fresh norms 1: every place its own number, so that a swapped row is seen.
        let count = parameter.value.elem_count();
        let numbers: Vec<f32> =
            (0..count).map(|i| ((i * 37 + id.index() * 11) % 101) as f32 / 400.0 - 0.12).collect();
        let noise = Tensor::from_vec(numbers, parameter.value.shape(), &Device::Cpu).unwrap();
        let value = (&parameter.value + noise).unwrap();
        parameter.value.slice_set(&value, 0, 0).unwrap();
    }
    let together = Decoder::random(Architecture { family: &FUSED, ..split() }, 8, &options).unwrap();
    for (_, parameter) in together.parameters().iter() {
        let value =
            joined(&parts(&parameter.name), |id| separate.parameters().get(id).value.clone(), &separate);
        parameter.value.slice_set(&value, 0, 0).unwrap();
    }
    (separate, together)
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    with_slice::<f32, _>(&tensor.contiguous().unwrap(), <[f32]>::to_vec).unwrap()
}

fn batch() -> PackedBatch {
    let ids = |from: u32, count: u32| (from..from + count).map(|i| (i * 17 + 3) % 512).collect::<Vec<u32>>();
    let mut batch = PackedBatch::new();
    let prompt = batch.push(&ids(0, 7));
    batch.push_after(prompt, &ids(9, 12));
    batch.push(&ids(30, 5));
    batch
}

#[test]
fn a_fused_layout_computes_the_same_bits() {
    let (separate, mut together) = decoders();
    assert_eq!(together.parameters().len(), separate.parameters().len() - 3 * (2 + 2 + 1 + 1));
    let (want, got) = (separate.hidden(&batch()).unwrap(), together.hidden(&batch()).unwrap());
    assert_eq!(numbers(&got), numbers(&want));
    // Over packed weights too.
    let mut packed = separate;
    packed.prepare_inference().unwrap();
    together.prepare_inference().unwrap();
    assert_eq!(numbers(&together.hidden(&batch()).unwrap()), numbers(&packed.hidden(&batch()).unwrap()));
}

#[test]
fn a_fused_layout_has_the_same_gradients() {
    let (separate, together) = decoders();
    let gradients = |decoder: &Decoder| {
        let mut gradients = Gradients::zeros(decoder.parameters()).unwrap();
        let tape = decoder.forward_train(&batch(), crate::decoder::KeepPlan::ALL).unwrap();
        let count = tape.hidden().elem_count();
        let numbers: Vec<f32> = (0..count).map(|i| ((i * 7 + 2) % 11) as f32 / 5.0 - 0.9).collect();
        let d = Tensor::from_vec(numbers, tape.hidden().shape(), &Device::Cpu).unwrap();
        decoder.backward(tape, &d, &mut gradients).unwrap();
        gradients
    };
    let (want, got) = (gradients(&separate), gradients(&together));
    for (id, parameter) in together.parameters().iter() {
        let got = numbers(got.get(id).unwrap());
        let want = numbers(&joined(&parts(&parameter.name), |id| want.get(id).unwrap().clone(), &separate));
        let largest = want.iter().fold(0f32, |most, x| most.max(x.abs()));
        let apart = got.iter().zip(&want).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        // The hidden states' gradient does not reach the output head.
        let is_reached = (largest > 0.0) == (parameter.name != "lm_head.weight");
        assert!(is_reached && apart <= 1e-5 * largest, "{}: {apart} of {largest}", parameter.name);
    }
}

#[test]
fn a_fused_layout_is_written_as_it_is_stored() {
    let (_, together) = decoders();
    let folder = tempfile::tempdir().unwrap();
    together.save(folder.path(), None, usize::MAX).unwrap();
    let files = crate::weights::WeightFiles::open(folder.path()).unwrap();
    files.check(together.architecture(), true).unwrap();
    assert!(!files.contains("model.layers.0.self_attn.q_proj.weight"));
    for spec in together.architecture().tensors() {
        let id = together.parameters().find(&spec.name).unwrap();
        let read = files.get(&spec, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert_eq!(numbers(&read), numbers(&together.parameters().get(id).value), "{}", spec.name);
    }
    let bias = "model.layers.2.self_attn.qkv_proj.bias";
    let spec = together.architecture().tensors().into_iter().find(|spec| spec.name == bias).unwrap();
    // Four heads of queries, two of keys, two of values, each of 16.
    assert_eq!(spec.shape, [(4 + 2 + 2) * 16]);
}

#[test]
fn a_block_without_one_of_its_tensors_is_refused() {
    const WITHOUT: Family = Family { modules: |a| layout::modules(a, queries_alone), ..FUSED };
    let error = Decoder::random(Architecture { family: &WITHOUT, ..split() }, 8, &LoadOptions::default());
    assert!(error.err().unwrap().to_string().contains("block"));
}
