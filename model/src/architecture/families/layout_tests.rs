//! Layouts that no family of ours has, made by hand: what the description of modules must be able to express.

use candle_core::{Device, Tensor};
use serde_json::json;

use super::{Family, llama, testing};
use crate::architecture::Architecture;
use crate::architecture::layout::{self, LayerModules, LayerNames, ModuleSpec};
use crate::cpu::storage::with_slice;
use crate::{Decoder, Gradients, LoadOptions, PackedBatch, ParameterId};

/// Queries, keys and values in one matrix, gate and up in another, as Phi-3 stores them.
const FUSED: Family = Family {
    model_type: "fused",
    class: "FusedForCausalLM",
    modules: |a| layout::modules(a, fused),
    ..llama::LLAMA
};

fn fused(a: &Architecture, names: &LayerNames) -> LayerModules {
    let layer = layout::layer(a, names);
    let joined = |part, modules: &[ModuleSpec]| {
        let outputs = modules.iter().map(|module| module.outputs).sum();
        vec![names.module(part, outputs, modules[0].inputs, modules[0].bias)]
    };
    LayerModules {
        qkv: joined("self_attn.qkv_proj", &layer.qkv),
        gate_up: joined("mlp.gate_up_proj", &layer.gate_up),
        ..layer
    }
}

/// Norms on the parts' outputs alone, and norms over all queries and all keys, as OLMo 2 has them.
fn after_alone(a: &Architecture, names: &LayerNames) -> LayerModules {
    let norm = |part, width| Some(names.norm(part, width));
    LayerModules {
        attention_norm: None,
        q_norm: norm("self_attn.q_norm", a.num_heads * a.head_dim),
        k_norm: norm("self_attn.k_norm", a.num_kv_heads * a.head_dim),
        attention_post_norm: norm("post_attention_layernorm", a.hidden_size),
        feed_forward_norm: None,
        feed_forward_post_norm: norm("post_feedforward_layernorm", a.hidden_size),
        ..layout::layer(a, names)
    }
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
        let tape = decoder.forward_train(&batch(), false).unwrap();
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
    const WITHOUT: Family = Family { modules: |a| layout::modules(a, after_alone), ..FUSED };
    let error = Decoder::random(Architecture { family: &WITHOUT, ..split() }, 8, &LoadOptions::default());
    assert!(error.err().unwrap().to_string().contains("block"));
}

#[test]
fn norms_after_each_part_alone_are_data_too() {
    const AFTER: Family =
        Family { model_type: "after", modules: |a| layout::modules(a, after_alone), ..llama::LLAMA };
    let arch =
        Architecture { family: &AFTER, qkv_bias: false, output_bias: false, mlp_bias: false, ..split() };
    let want = [
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.q_norm.weight",
        "self_attn.k_norm.weight",
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
        "post_feedforward_layernorm.weight",
    ];
    assert_eq!(testing::layer_names(&arch, 2), want);
    let widths: Vec<usize> = arch
        .tensors()
        .into_iter()
        .filter(|spec| spec.name.contains("layers.1.self_attn") && spec.name.contains("_norm"))
        .map(|spec| spec.shape[0])
        .collect();
    assert_eq!(widths, [64, 32]);
}
