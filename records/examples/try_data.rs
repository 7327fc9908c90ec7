//! by hand only
use selfplay_records::*;
use std::collections::BTreeMap;
use std::path::Path;
fn main() {
    let d = "/work/shared/data/";
    for f in [
        "hh_rlhf/hh_test_2000.jsonl",
        "hh_rlhf/hh_train_2000.jsonl",
        "hh_rlhf/helpful-base.test.jsonl.gz",
        "llama_factory/dpo_en_demo.json",
        "llama_factory/dpo_zh_demo.json",
        "gpm/custom_test_data.jsonl",
        "gpm/test_data.jsonl",
        "pandalm/testset-v1.json",
    ] {
        match read_pairs(Path::new(&format!("{d}{f}"))) {
            Ok(r) => {
                let mut m = BTreeMap::new();
                for s in &r.skipped {
                    *m.entry(s.reason.to_string()).or_insert(0) += 1;
                }
                println!("{f}: {} pairs {m:?}", r.pairs.len());
                let c = &r.pairs[0];
                println!(
                    "   {:.60?} | {:.40?} | {:.40?}",
                    c.prompt.as_ref().unwrap().last().unwrap().content,
                    c.chosen_text().unwrap(),
                    c.rejected_text().unwrap()
                );
                write_rows(
                    Path::new("/tmp/work/records-try")
                        .join(format!("{}.parquet", f.replace('/', "_")))
                        .as_path(),
                    &r.pairs,
                )
                .unwrap();
            }
            Err(e) => println!("{e}"),
        }
    }
    for f in ["llama_factory/alpaca_en_demo.json", "dolly/sdft_dolly_train.json", "belle/eval_set.json"] {
        match read_rows::<Instruction>(Path::new(&format!("{d}{f}"))) {
            Ok(r) => println!("{f}: {} instructions", r.len()),
            Err(e) => println!("{e}"),
        }
    }
    for (f, c) in [
        ("alpaca_eval/GPO-Llama-3-8B-Instruct-GPM-2B.json", "instruction"),
        ("mt_bench/mt_bench_question.jsonl", "turns"),
        ("belle/eval_set.json", "question"),
        ("pandalm/testset-v1.json", "instruction"),
        ("dolly/sdft_dolly_train.json", "instruction"),
    ] {
        match read_prompts(Path::new(&format!("{d}{f}")), c, OnBadPrompt::Error) {
            Ok(r) => println!("{f}: {} prompts", r.prompts.len()),
            Err(e) => println!("{e}"),
        }
    }
    let o = Path::new("/tmp/work/records-try");
    let c = Candidates {
        prompt: Prompt {
            prompt_id: "a".into(),
            prompt: Some("q".into()),
            prompt_ids: Some(vec![1, 2]),
            ..Default::default()
        },
        responses: vec![
            Response {
                text: "t".into(),
                ids: Some(vec![3, 4]),
                logprobs: Some(vec![-0.1, -2.5]),
                finish_reason: Some(FinishReason::Stop)
            };
            2
        ],
    };
    write_rows(&o.join("cand.parquet"), &[c.clone()]).unwrap();
    let p = Preference {
        prompt_id: "a".into(),
        scores: vec![vec![0., 1.], vec![-1., 0.]],
        probabilities: vec![vec![0.5, 0.7], vec![0.3, 0.5]],
        mean_scores: vec![0.5, -0.5],
        mean_probabilities: vec![0.6, 0.4],
        embeddings: None,
    };
    write_rows(&o.join("pref.parquet"), &[p]).unwrap();
    for f in ["ds_cand.parquet", "pd_cand.parquet"] {
        match read_rows::<Candidates>(&o.join(f)) {
            Ok(r) => println!("{f} same: {}", r == vec![c.clone()]),
            Err(e) => println!("{e}"),
        }
    }
    for f in ["ds_pairs.parquet"] {
        match read_pairs(&o.join(f)) {
            Ok(r) => println!("{f}: {}", r.pairs.len()),
            Err(e) => println!("{e}"),
        }
    }
}
