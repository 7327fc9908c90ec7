//! Decoders against a forward pass written from the families' equations alone, a token at a time in f64: it knows no
//! `Architecture` and reads the weights by the names that they are stored under.
//!
//! The equations are those of transformers' modelling files. Every family is made as `selfplay_testing::families` has it: three layers,
//! 24 wide, four query and two key heads of 8, a window of 5 where it has windows.

use std::collections::HashMap;

use candle_core::DType;
use selfplay_model::PackedBatch;
use selfplay_testing::families::{decoder, numbers};

const HIDDEN: usize = 24;
const WIDE: usize = 36;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD: usize = 8;
const WINDOW: usize = 5;
const EPSILON: f64 = 1e-5;

type Vector = Vec<f64>;

/// What a layer rotates by: frequencies of the first pairs of a head's numbers, and a factor of cos and sin.
struct Rotation {
    frequencies: Vector,
    factor: f64,
}

fn rotation(theta: f64, width: usize) -> Rotation {
    let frequencies = (0..width / 2).map(|i| theta.powf(-2.0 * i as f64 / width as f64)).collect();
    Rotation { frequencies, factor: 1.0 }
}

/// Each layer's rotation, `None` where it has none.
fn rotations(family: &str) -> [Option<Rotation>; 3] {
    match family {
        "gemma3_text" => {
            // `rope_scaling` is of the full layer.
            let mut full = rotation(1e4, HEAD);
            full.frequencies.iter_mut().for_each(|f| *f /= 4.0);
            [Some(rotation(200.0, HEAD)), Some(full), Some(rotation(200.0, HEAD))]
        }
        "phi3" => [0, 1, 2].map(|_| {
            let mut rotation = rotation(1e4, 6);
            rotation.frequencies.iter_mut().zip([1.0, 1.5, 2.25]).for_each(|(f, factor)| *f /= factor);
            rotation.factor = (1.0 + (64.0f64 / 48.0).ln() / 48.0f64.ln()).sqrt();
            Some(rotation)
        }),
        "smollm3" => [Some(rotation(1e4, HEAD)), None, Some(rotation(1e4, HEAD))],
        _ => [0, 1, 2].map(|_| Some(rotation(1e4, HEAD))),
    }
}

fn has_window(family: &str, layer: usize) -> bool {
    match family {
        "mistral" | "phi3" => true,
        "gemma3_text" => layer != 1,
        "smollm3" => layer == 1,
        _ => false,
    }
}

/// The weights by their stored names.
struct Stored(HashMap<String, Vector>);

impl Stored {
    fn get(&self, name: &str) -> Option<&Vector> {
        self.0.get(name)
    }

    /// W x + b, b where there is one.
    fn map(&self, name: &str, x: &[f64]) -> Vector {
        let weight = &self.0[&format!("{name}.weight")];
        let mut y: Vector =
            weight.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect();
        if let Some(bias) = self.get(&format!("{name}.bias")) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        y
    }

    /// The norm of each group of the norm's width; x itself where there is no such norm.
    fn norm(&self, family: &str, name: &str, x: Vector) -> Vector {
        let Some(weight) = self.get(&format!("{name}.weight")) else { return x };
        let offset = if family.starts_with("gemma") { 1.0 } else { 0.0 };
        x.chunks(weight.len())
            .flat_map(|x| {
                let scale = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + EPSILON).sqrt();
                x.iter().zip(weight).map(move |(x, w)| x / scale * (w + offset))
            })
            .collect()
    }
}

fn rotate(x: &mut [f64], rotation: &Rotation, position: usize) {
    let half = rotation.frequencies.len();
    for head in x.chunks_mut(HEAD) {
        for (i, f) in rotation.frequencies.iter().enumerate() {
            let angle = position as f64 * f;
            let (cos, sin) = (angle.cos() * rotation.factor, angle.sin() * rotation.factor);
            let (a, b) = (head[i], head[half + i]);
            (head[i], head[half + i]) = (a * cos - b * sin, b * cos + a * sin);
        }
    }
}

fn activation(family: &str, x: f64) -> f64 {
    if family.starts_with("gemma") {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
    } else {
        x / (1.0 + (-x).exp())
    }
}

/// Hidden states after the final norm, a token after the other.
fn hidden(family: &str, stored: &Stored, ids: &[u32]) -> Vec<Vector> {
    let table = &stored.0["model.embed_tokens.weight"];
    let scale = if family.starts_with("gemma") { (HIDDEN as f64).sqrt() } else { 1.0 };
    let row = |id: u32| table[id as usize * HIDDEN..][..HIDDEN].iter().map(|x| x * scale).collect();
    let mut stream: Vec<Vector> = ids.iter().map(|&id| row(id)).collect();
    for (layer, rotation) in rotations(family).iter().enumerate() {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let norm = |part: &str, x: Vector| stored.norm(family, &name(part), x);
        let mut heads: Vec<[Vector; 3]> = Vec::new();
        for (position, x) in stream.iter().enumerate() {
            let x = norm("input_layernorm", x.clone());
            let (q, k, v) = if family == "phi3" {
                let all = stored.map(&name("self_attn.qkv_proj"), &x);
                let (q, rest) = all.split_at(HEADS * HEAD);
                let (k, v) = rest.split_at(KV_HEADS * HEAD);
                (q.to_vec(), k.to_vec(), v.to_vec())
            } else {
                let part = |part: &str| stored.map(&name(part), &x);
                (part("self_attn.q_proj"), part("self_attn.k_proj"), part("self_attn.v_proj"))
            };
            let (mut q, mut k) = (norm("self_attn.q_norm", q), norm("self_attn.k_norm", k));
            if let Some(rotation) = rotation {
                rotate(&mut q, rotation, position);
                rotate(&mut k, rotation, position);
            }
            heads.push([q, k, v]);
        }
        let per_head = if family == "gemma3_text" { 12.0f64 } else { HEAD as f64 }.sqrt();
        for (i, x) in stream.iter_mut().enumerate() {
            let first = if has_window(family, layer) { (i + 1).saturating_sub(WINDOW) } else { 0 };
            let mut attended = vec![0.0; HEADS * HEAD];
            for head in 0..HEADS {
                let of = |x: &Vector, head: usize| x[head * HEAD..][..HEAD].to_vec();
                let (q, kv) = (of(&heads[i][0], head), head / (HEADS / KV_HEADS));
                let weights: Vector = (first..=i)
                    .map(|j| {
                        let k = of(&heads[j][1], kv);
                        (q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>() / per_head).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for (weight, j) in weights.iter().zip(first..) {
                    let v = of(&heads[j][2], kv);
                    attended[head * HEAD..][..HEAD]
                        .iter_mut()
                        .zip(v)
                        .for_each(|(a, v)| *a += weight / total * v);
                }
            }
            let mut branch = stored.map(&name("self_attn.o_proj"), &attended);
            // After attention, or only after it in the stream's order.
            let is_post_norm = matches!(family, "gemma3_text" | "olmo2");
            if is_post_norm {
                branch = norm("post_attention_layernorm", branch);
            }
            x.iter_mut().zip(branch).for_each(|(x, b)| *x += b);
            let y = match family {
                "gemma3_text" => norm("pre_feedforward_layernorm", x.clone()),
                "olmo2" => x.clone(),
                _ => norm("post_attention_layernorm", x.clone()),
            };
            let (gate, up) = if family == "phi3" {
                let all = stored.map(&name("mlp.gate_up_proj"), &y);
                (all[..WIDE].to_vec(), all[WIDE..].to_vec())
            } else {
                (stored.map(&name("mlp.gate_proj"), &y), stored.map(&name("mlp.up_proj"), &y))
            };
            let gated: Vector = gate.iter().zip(up).map(|(&g, up)| activation(family, g) * up).collect();
            let mut branch = stored.map(&name("mlp.down_proj"), &gated);
            if is_post_norm {
                branch = norm("post_feedforward_layernorm", branch);
            }
            x.iter_mut().zip(branch).for_each(|(x, b)| *x += b);
        }
    }
    stream.into_iter().map(|x| stored.norm(family, "model.norm", x)).collect()
}

#[test]
fn every_family_computes_its_equations() {
    let ids: Vec<u32> = (0..23).map(|i| (i * 17 + 3) % 40).collect();
    for family in ["mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "phi3", "olmo2", "smollm3"] {
        let decoder = decoder(family, DType::F64);
        let weights = decoder.parameters().iter();
        let stored = Stored(weights.map(|(_, p)| (p.name.clone(), numbers(&p.value))).collect());
        let want = hidden(family, &stored, &ids).concat();
        let mut batch = PackedBatch::new();
        batch.push(&ids);
        let got = numbers(&decoder.hidden(&batch).unwrap());
        let largest = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let worst = want.iter().zip(&got).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
        // Cosines and sines are f32 there.
        assert!(got.len() == want.len() && worst < 1e-5 * largest, "{family}: {worst:e} of {largest}");
    }
}
