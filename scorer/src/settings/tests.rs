use selfplay_records::Problems;

use super::*;
use crate::{
    Advantages, KindSettings, LengthPenalty, LengthUnit, MemberKeys, MemberScale, QuantizeForm,
    ReadingSettings, ScoreDType, Tokenization, VerdictForm,
};

fn resolved(keys: &ScoreKeys) -> (ScoreSettings, Problems) {
    let mut problems = Problems::default();
    (keys.resolve(&mut problems), problems)
}

#[test]
fn the_defaults_are_the_contract_s() {
    let (settings, problems) = resolved(&ScoreKeys::default());
    assert!(problems.is_empty());
    assert_eq!(settings, ScoreSettings::default());
    let keys = settings.keys(None);
    assert_eq!((keys.kind, keys.tau, keys.embeddings), (PreferenceKind::Auto, None, Some(false)));
    assert_eq!((keys.max_length, keys.batch_tokens), (Some(4096), Some(16_384)));
    assert_eq!(settings.score_difference.factor(), 1.0);
    assert_eq!(ScoreDifference::Reference.factor(), 2.0);
}

#[test]
fn keys_and_settings_say_the_same() {
    for kind in [PreferenceKind::Auto, PreferenceKind::Gpm, PreferenceKind::BradleyTerry] {
        let keys = ScoreKeys {
            kind,
            model: Some("gpm".into()),
            tau: Some(0.2),
            dtype: Some(ScoreDType::Bf16),
            quantize: Some(QuantizeForm::Nf4),
            max_length: Some(100),
            batch_tokens: Some(200),
            embeddings: Some(true),
            tokenization: Some(Tokenization::OneBos),
            advantages: Some(Advantages::PerAxis),
            score_difference: ScoreDifference::Reference,
            chat_template: Some("t.jinja".into()),
            ..ScoreKeys::default()
        };
        let (settings, problems) = resolved(&keys);
        assert!(problems.is_empty());
        assert_eq!(settings.keys(Some("gpm".into())), keys);
    }
}

#[test]
fn keys_of_another_kind_are_refused() {
    let pair_lm = ScoreKeys { kind: PreferenceKind::PairLm, max_length: Some(9), ..ScoreKeys::default() };
    let (settings, problems) = resolved(&pair_lm);
    assert!(problems.is_empty());
    assert_eq!(settings.kind, KindSettings::PairLm(ReadingSettings { max_length: 9, ..Default::default() }));
    assert_eq!(resolved(&settings.keys(None)).0, settings);
    let (_, problems) = resolved(&ScoreKeys { tau: Some(0.1), embeddings: Some(true), ..pair_lm });
    assert_eq!(problems.keys(), ["tau", "embeddings"]);
}

#[test]
fn services_have_keys_of_their_own() {
    let judge = ScoreKeys {
        kind: PreferenceKind::Judge,
        model: Some("big".into()),
        endpoint: Some("http://127.0.0.1:1/v1".into()),
        verdict: Some(VerdictForm::Text),
        retries: Some(3),
        ..ScoreKeys::default()
    };
    let (settings, problems) = resolved(&judge);
    assert!(problems.is_empty(), "{problems}");
    assert!(settings.kind.runs_elsewhere() && !settings.kind.names_model());
    let own = settings.kind.judge().unwrap();
    assert_eq!((own.model.as_str(), own.service.as_ref().unwrap().retries), ("big", 3));
    assert_eq!(resolved(&settings.keys(None)).0, settings);
    // Without an endpoint it is a model of ours.
    let ours = ScoreKeys { endpoint: None, retries: None, max_length: Some(99), ..judge.clone() };
    let (settings, problems) = resolved(&ours);
    assert!(problems.is_empty(), "{problems}");
    assert!(settings.kind.names_model() && settings.kind.judge().unwrap().writes_here());
    let wrong = ScoreKeys { max_length: Some(99), tau: Some(1.0), model: None, ..judge.clone() };
    assert_eq!(resolved(&wrong).1.keys(), ["tau", "max_length", "model"]);
    assert_eq!(
        resolved(&ScoreKeys { kind: PreferenceKind::Gpm, ..judge }).1.keys(),
        ["retries", "endpoint", "verdict"]
    );
    let remote = ScoreKeys { kind: PreferenceKind::Remote, ..ScoreKeys::default() };
    assert_eq!(resolved(&remote).1.keys(), ["endpoint"]);
    let remote = ScoreKeys { endpoint: Some("http://127.0.0.1:1".into()), ..remote };
    let (settings, problems) = resolved(&remote);
    assert!(problems.is_empty(), "{problems}");
    assert_eq!(resolved(&settings.keys(None)).0, settings);
}

#[test]
fn members_have_keys_and_problems_of_their_own() {
    let member = |kind, model: &str| MemberKeys { kind, model: Some(model.into()), ..MemberKeys::default() };
    let keys = ScoreKeys {
        kind: PreferenceKind::Ensemble,
        members: Some(vec![member(PreferenceKind::Gpm, "a"), member(PreferenceKind::Auto, "b")]),
        normalize: Some(MemberScale::Deviation),
        ..ScoreKeys::default()
    };
    let (settings, problems) = resolved(&keys);
    assert!(problems.is_empty(), "{problems}");
    assert_eq!(settings.kind.ensemble().unwrap().members[1].folder, Some("b".into()));
    assert!(!settings.kind.names_model() && !settings.kind.runs_elsewhere());
    assert_eq!(resolved(&settings.keys(None)).0, settings);
    let wrong = MemberKeys { weight: 0.0, tau: Some(-1.0), ..member(PreferenceKind::Gpm, "a") };
    let nested = MemberKeys { model: None, ..member(PreferenceKind::Ensemble, "") };
    let keys = ScoreKeys { members: Some(vec![wrong, nested]), ..keys };
    assert_eq!(
        resolved(&keys).1.keys(),
        ["members[0].weight", "members[0].tau", "members[1].kind", "members[1].model"]
    );
    let none = ScoreKeys { kind: PreferenceKind::Ensemble, ..ScoreKeys::default() };
    assert_eq!(resolved(&none).1.keys(), ["members"]);
}

#[test]
fn a_length_penalty_goes_with_every_kind() {
    let keys = ScoreKeys {
        kind: PreferenceKind::PairRanker,
        length_penalty: Some(0.02),
        length_unit: Some(LengthUnit::PromptMean),
        ..ScoreKeys::default()
    };
    let (settings, problems) = resolved(&keys);
    assert!(problems.is_empty(), "{problems}");
    assert_eq!(settings.length, Some(LengthPenalty { weight: 0.02, unit: LengthUnit::PromptMean }));
    assert_eq!(resolved(&settings.keys(None)).0, settings);
    let off = ScoreKeys { length_penalty: Some(0.0), length_unit: None, ..keys.clone() };
    assert_eq!(resolved(&off).0.length, None);
    let wrong = ScoreKeys { length_penalty: Some(f64::NAN), ..keys.clone() };
    assert_eq!(resolved(&wrong).1.keys(), ["length_penalty"]);
    let unit = ScoreKeys { length_penalty: None, ..keys.clone() };
    assert_eq!(resolved(&unit).1.keys(), ["length_unit"]);
    let ranker = ScoreKeys { tau: Some(1.0), max_length: Some(9), ..keys };
    assert_eq!(resolved(&ranker).1.keys(), ["tau", "max_length"]);
}

#[test]
fn a_program_has_keys_of_its_own() {
    let words = vec!["sh".to_owned(), "judge.sh".to_owned()];
    let command = ScoreKeys {
        kind: PreferenceKind::Command,
        command: Some(words.clone()),
        timeout_s: Some(5.0),
        ..ScoreKeys::default()
    };
    let (settings, problems) = resolved(&command);
    assert!(problems.is_empty(), "{problems}");
    let own = settings.kind.command().unwrap();
    assert_eq!((&own.words, own.tau, own.concurrency, own.retries), (&words, 1.0, 1, 1));
    assert_eq!(resolved(&settings.keys(None)).0, settings);
    // What a run of another kind has written out does not stand in the way of a branch.
    let written = ScoreSettings::default().keys(Some(String::new()));
    let branch = ScoreKeys { kind: PreferenceKind::Command, command: Some(words), ..written };
    assert!(resolved(&branch).1.is_empty(), "{}", resolved(&branch).1);
    let back = ScoreKeys { kind: PreferenceKind::Gpm, command: Some(Vec::new()), ..settings.keys(None) };
    assert_eq!(resolved(&back).1.keys(), ["timeout_s"]);

    let wrong = ScoreKeys { model: Some("gpm".into()), max_length: Some(9), ..command.clone() };
    assert_eq!(resolved(&wrong).1.keys(), ["model", "max_length"]);
    let wrong = ScoreKeys {
        command: None,
        tau: Some(0.0),
        concurrency: Some(0),
        timeout_s: Some(f64::NAN),
        ..command.clone()
    };
    assert_eq!(resolved(&wrong).1.keys(), ["command", "tau", "concurrency", "timeout_s"]);
    assert_eq!(
        resolved(&ScoreKeys { kind: PreferenceKind::Gpm, ..command }).1.keys(),
        ["command", "timeout_s"]
    );
}

#[test]
fn every_wrong_key_is_named_at_once() {
    let keys =
        ScoreKeys { tau: Some(f64::NAN), max_length: Some(1), batch_tokens: Some(0), ..ScoreKeys::default() };
    let (_, problems) = resolved(&keys);
    assert_eq!(problems.keys(), ["tau", "max_length", "batch_tokens"]);
    for tau in [-0.1, 0.0] {
        assert_eq!(resolved(&ScoreKeys { tau: Some(tau), ..ScoreKeys::default() }).1.list.len(), 1);
    }
}
