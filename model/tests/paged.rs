//! The paged forward against the packed one, and its independence of batch and schedule, bit for bit.

use candle_core::{DType, Device};
use selfplay_model::cpu::storage::with_slice;
use selfplay_model::{Decoder, KvCache, KvFormat, PAGE_TOKENS, PackedBatch, PageCopy, PagedRow};
use selfplay_testing::decoder::{config, extend};
use serde_json::json;

fn decoder(family: &str) -> Decoder {
    let shape = json!({
        "model_type": family, "vocab_size": 48, "intermediate_size": 40, "head_dim": 8, "tie_word_embeddings": true,
    });
    let more = match family {
        "gemma2" => {
            json!({"sliding_window": 9, "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": 5.0,
            "query_pre_attn_scalar": 8})
        }
        "gemma3_text" => {
            json!({"sliding_window": 9, "sliding_window_pattern": 2, "hidden_activation": "gelu_pytorch_tanh",
            "rope_local_base_freq": 50.0, "query_pre_attn_scalar": 8})
        }
        "phi3" => {
            json!({"sliding_window": 9, "partial_rotary_factor": 0.75, "rope_scaling": {"type": "longrope",
            "short_factor": [1.0, 1.5, 2.25], "long_factor": [2.0, 4.0, 8.0]}})
        }
        "smollm3" => json!({"no_rope_layer_interval": 2, "use_sliding_window": true, "sliding_window": 9}),
        _ => json!({}),
    };
    let mut config = config(shape);
    extend(&mut config, more);
    selfplay_testing::decoder(&config, 3)
}

/// Every way in which keys come into the cache: rotated whole, in part, not, differently by layer, after norms of two kinds.
const FAMILIES: [&str; 7] = ["llama", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3"];

fn ids(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 31 + seed * 7 + 5) % 48) as u32).collect()
}

/// Runs sequences together, each cut into pieces of its own size, on interleaved pages; returns each one's hidden
/// states, row by row.
fn run(decoder: &Decoder, sequences: &[(Vec<u32>, usize)]) -> Vec<Vec<Vec<f32>>> {
    run_in(DType::F32.into(), decoder, sequences)
}

/// [`run`] over a cache of this format.
fn run_in(format: KvFormat, decoder: &Decoder, sequences: &[(Vec<u32>, usize)]) -> Vec<Vec<Vec<f32>>> {
    let mut cache = KvCache::new(decoder.architecture(), 64, format, &Device::Cpu).unwrap();
    let n = sequences.len();
    let pages: Vec<Vec<u32>> = (0..n)
        .map(|i| (0..sequences[i].0.len().div_ceil(PAGE_TOKENS)).map(|p| (p * n + i) as u32).collect())
        .collect();
    let mut done = vec![0; n];
    let mut out = vec![Vec::new(); n];
    while (0..n).any(|i| done[i] < sequences[i].0.len()) {
        let mut step = Vec::new();
        let mut rows = Vec::new();
        let mut owners = Vec::new();
        for i in 0..n {
            let (ids, piece) = &sequences[i];
            let new = (*piece).min(ids.len() - done[i]);
            if new > 0 {
                step.extend_from_slice(&ids[done[i]..done[i] + new]);
                rows.push(PagedRow { new_tokens: new, context: done[i], pages: &pages[i], shared: 0 });
                owners.extend(std::iter::repeat_n(i, new));
                done[i] += new;
            }
        }
        let all: Vec<usize> = (0..step.len()).collect();
        let hidden = decoder.forward_paged(&step, &rows, &all, &mut cache).unwrap();
        let h = decoder.architecture().hidden_size;
        with_slice::<f32, _>(&hidden, |x| {
            for (row, owner) in x.chunks_exact(h).zip(&owners) {
                out[*owner].push(row.to_vec());
            }
        })
        .unwrap();
    }
    out
}

#[test]
fn agrees_with_the_packed_forward() {
    for family in FAMILIES {
        let decoder = decoder(family);
        let sequence = ids(53, 1);
        let mut batch = PackedBatch::new();
        batch.push(&sequence);
        let packed = decoder.hidden(&batch).unwrap();
        let paged = run(&decoder, &[(sequence, 53)]).remove(0).concat();
        with_slice::<f32, _>(&packed, |want| {
            let worst = want.iter().zip(&paged).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst < 2e-5, "{family}: {worst}");
        })
        .unwrap();
    }
}

#[test]
fn bits_do_not_depend_on_batch_pieces_or_packing() {
    for (family, format) in FAMILIES.iter().flat_map(|f| [(f, DType::F32.into()), (f, KvFormat::Fp8)]) {
        let mut decoder = decoder(family);
        let run = |decoder: &Decoder, sequences: &[(Vec<u32>, usize)]| run_in(format, decoder, sequences);
        let alone = run(&decoder, &[(ids(45, 2), 45)]).remove(0);
        let stepwise = run(&decoder, &[(ids(45, 2), 1)]).remove(0);
        assert_eq!(alone, stepwise, "{family} {format:?}: token by token");
        let crowd = [(ids(17, 3), 5), (ids(45, 2), 7), (ids(70, 4), 1), (ids(3, 5), 2)];
        assert_eq!(alone, run(&decoder, &crowd)[1], "{family} {format:?}: in a crowd");
        decoder.prepare_inference().unwrap();
        assert_eq!(alone, run(&decoder, &crowd)[1], "{family} {format:?}: over packed weights");
    }
}

/// Rounding is there, and is small: four digits of each number of keys and values, in three layers or so.
#[test]
fn keys_and_values_in_fp8_are_near_the_exact_ones() {
    for family in FAMILIES {
        let decoder = decoder(family);
        let sequence = [(ids(53, 1), 9)];
        let exact = run(&decoder, &sequence).remove(0).concat();
        let rounded = run_in(KvFormat::Fp8, &decoder, &sequence).remove(0).concat();
        let off: f32 = exact.iter().zip(&rounded).map(|(a, b)| (a - b) * (a - b)).sum();
        let size: f32 = exact.iter().map(|x| x * x).sum();
        let share = (off / size).sqrt();
        assert!(share > 1e-5 && share < 5e-2, "{family}: {share}");
    }
}

/// Rows that share a prompt's pages, and hold a copy of its last one, see what they would see on pages of their own, in every
/// format: copies bring scales along.
#[test]
fn shared_and_copied_pages_are_as_ones_of_their_own() {
    for (family, format) in FAMILIES.iter().flat_map(|f| [(f, DType::F32.into()), (f, KvFormat::Fp8)]) {
        let decoder = decoder(family);
        let (prompt, responses) = (ids(21, 1), [ids(13, 2), ids(30, 3)]);
        let mut cache = KvCache::new(decoder.architecture(), 12, format, &Device::Cpu).unwrap();
        // What pages held before must not be seen.
        let stale = [5, 3, 8, 1, 4, 7, 2];
        let row = |new_tokens, context, pages| PagedRow { new_tokens, context, pages, shared: 0 };
        decoder.forward_paged(&ids(112, 9), &[row(112, 0, &stale)], &[], &mut cache).unwrap();
        let pages = [vec![5, 3, 8, 1], vec![5, 4, 7, 2]];
        decoder.forward_paged(&prompt, &[row(21, 0, &pages[0])], &[], &mut cache).unwrap();
        cache.copy_pages(&[PageCopy { from: 3, to: 4 }]).unwrap();
        for token in 0..30 {
            let running: Vec<usize> = (0..2).filter(|&i| token < responses[i].len()).collect();
            let step: Vec<u32> = running.iter().map(|&i| responses[i][token]).collect();
            let rows: Vec<PagedRow> = running
                .iter()
                .map(|&i| PagedRow { new_tokens: 1, context: 21 + token, pages: &pages[i], shared: 16 })
                .collect();
            let wanted: Vec<usize> = (0..running.len()).collect();
            let hidden = numbers(&decoder.forward_paged(&step, &rows, &wanted, &mut cache).unwrap());
            let h = decoder.architecture().hidden_size;
            for (got, i) in hidden.chunks_exact(h).zip(running) {
                if token + 1 == responses[i].len() {
                    let whole = [prompt.clone(), responses[i].clone()].concat();
                    let want = run_in(format, &decoder, &[(whole, 64)]).remove(0);
                    assert_eq!(got, want[21 + token], "{family} {format:?}: response {i}");
                }
            }
        }
    }
}

#[test]
fn a_shared_prefix_gives_what_whole_sequences_give() {
    let decoder = decoder("gemma2");
    let (prompt, a, b) = (ids(21, 1), ids(13, 2), ids(30, 3));
    let mut shared = PackedBatch::new();
    let prefix = shared.push(&prompt);
    let (first, second) = (shared.push_after(prefix, &a), shared.push_after(prefix, &b));
    let hidden = decoder.hidden(&shared).unwrap();
    for (segment, response) in [(first, &a), (second, &b)] {
        let mut whole = PackedBatch::new();
        whole.push(&[prompt.clone(), response.clone()].concat());
        let want = decoder.hidden(&whole).unwrap().narrow(0, prompt.len(), response.len()).unwrap();
        let rows = shared.rows(segment);
        let got = hidden.narrow(0, rows.start, rows.len()).unwrap();
        let worst = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 1e-5, "{worst}");
    }
}

#[test]
fn what_else_is_wanted_changes_no_bit() {
    for family in FAMILIES {
        let mut decoder = decoder(family);
        let (prompt, a, b) = (ids(21, 1), ids(13, 2), ids(30, 3));
        let mut batch = PackedBatch::new();
        let prefix = batch.push(&prompt);
        batch.push_after(prefix, &a);
        batch.push_after(prefix, &b);
        let some = [20, 3, 63, 33];
        let all = numbers(&decoder.hidden(&batch).unwrap());
        let h = decoder.architecture().hidden_size;
        let expected: Vec<f32> = some.iter().flat_map(|row| all[row * h..][..h].to_vec()).collect();
        assert_eq!(numbers(&decoder.hidden_rows(&batch, &some).unwrap()), expected, "{family}");
        assert!(decoder.hidden_rows(&batch, &[64]).is_err());

        let sequence = ids(40, 4);
        let whole = run(&decoder, &[(sequence.clone(), 40)]).remove(0);
        decoder.prepare_inference().unwrap();
        let mut cache = KvCache::new(decoder.architecture(), 3, DType::F32, &Device::Cpu).unwrap();
        let mut piece = |range: std::ops::Range<usize>, wanted: &[usize]| {
            let row =
                PagedRow { new_tokens: range.len(), context: range.start, pages: &[2, 0, 1], shared: 0 };
            numbers(&decoder.forward_paged(&sequence[range], &[row], wanted, &mut cache).unwrap())
        };
        assert!(piece(0..17, &[]).is_empty(), "{family}: nothing wanted");
        assert_eq!(piece(17..40, &[2, 22]), [&whole[19][..], &whole[39]].concat(), "{family}: some");
    }
}

#[test]
fn refuses_pages_that_do_not_cover_a_row() {
    let decoder = decoder("llama");
    let mut cache = KvCache::new(decoder.architecture(), 2, DType::F32, &Device::Cpu).unwrap();
    let row = PagedRow { new_tokens: 17, context: 0, pages: &[0], shared: 0 };
    assert!(decoder.forward_paged(&ids(17, 1), &[row], &[16], &mut cache).is_err());
    let row = PagedRow { new_tokens: 1, context: 0, pages: &[2], shared: 0 };
    assert!(decoder.forward_paged(&ids(1, 1), &[row], &[0], &mut cache).is_err());
    let row = PagedRow { new_tokens: 1, context: usize::MAX, pages: &[], shared: 0 };
    assert!(decoder.forward_paged(&ids(1, 1), &[row], &[0], &mut cache).is_err());
}

#[test]
fn refuses_a_page_that_two_rows_write_and_another_models_cache() {
    let decoder = decoder("llama");
    let mut cache = KvCache::new(decoder.architecture(), 3, DType::F32, &Device::Cpu).unwrap();
    let row = |context, pages| PagedRow { new_tokens: 1, context, pages, shared: 0 };
    let mut step = |rows: &[PagedRow]| decoder.forward_paged(&ids(rows.len(), 1), rows, &[0], &mut cache);
    step(&[row(0, &[0])]).unwrap();
    assert!(step(&[row(1, &[0]), row(2, &[0])]).unwrap_err().to_string().contains("page 0"));
    assert!(step(&[row(16, &[0, 1]), row(16, &[0, 2])]).is_ok(), "a full page may be shared");

    let mut narrow = decoder.architecture().clone();
    narrow.head_dim /= 2;
    let mut cache = KvCache::new(&narrow, 3, DType::F32, &Device::Cpu).unwrap();
    let error = decoder.forward_paged(&ids(1, 1), &[row(0, &[0])], &[0], &mut cache).unwrap_err();
    assert!(error.to_string().contains("another model"), "{error}");
}

fn numbers(tensor: &candle_core::Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}
