//! Numbers derived by hand for each loss, derivatives against central differences, bad inputs.
//!
//! Past 400 lines because the losses stand side by side.

use proptest::prelude::*;
use selfplay_records::{ExampleKind, HasKind, Kind};

use super::*;

const TOLERANCE: f64 = 1e-12;

fn settings(kind: LossKind, beta: f64) -> LossSettings {
    LossSettings {
        kind,
        beta,
        label_smoothing: 0.0,
        length_normalized: false,
        sft_weight: 0.0,
        simpo_gamma: 0.5,
        target_clamp: None,
        eta: DEFAULT_ETA,
        rho: DEFAULT_RHO,
        desirable_weight: 1.0,
        undesirable_weight: 1.0,
    }
}

/// The losses whose equations stand here, over pairs.
fn losses_of_pairs() -> Vec<LossKind> {
    LossKind::ALL.into_iter().filter(|kind| kind.examples() == ExampleKind::Pairs).collect()
}

/// A pair with reference 0, so that Δ is what is given, and every target field.
fn pair(chosen: f64, rejected: f64) -> PairInputs {
    PairInputs {
        policy: PairLogProbs { chosen, rejected },
        reference: Some(PairLogProbs { chosen: 0.0, rejected: 0.0 }),
        initial: Some(PairLogProbs { chosen: 3.0, rejected: -3.0 }),
        chosen_tokens: 4,
        rejected_tokens: 2,
        target: PreferenceTarget {
            probability: Some(0.75),
            probability_win: Some(0.75),
            probability_lose: Some(0.25),
            score: Some(1.5),
            score_win: Some(1.0),
            score_lose: Some(-0.5),
            desirable: Some(true),
            weight: None,
        },
    }
}

#[track_caller]
fn close(got: f64, want: f64) {
    assert!((got - want).abs() <= TOLERANCE * want.abs().max(1.0), "got {got}, want {want}");
}

#[track_caller]
fn check(settings: &LossSettings, pair: PairInputs, loss: f64, d_chosen: f64, d_rejected: f64) {
    let got = evaluate(settings, &[pair]).unwrap();
    close(got.loss, loss);
    close(got.d_chosen[0], d_chosen);
    close(got.d_rejected[0], d_rejected);
}

#[test]
fn sppo_by_hand() {
    // β = ½: targets ±½. Δ = (1.5, 1): off by (1, 1.5); ½(1 + 2.25).
    check(&settings(LossKind::Sppo, 0.5), pair(1.5, 1.0), 1.625, 1.0, 1.5);
}

#[test]
fn sppo_step_0_oracle() {
    // At Δ = 0: ½(1/β)²[(P̂_w − ½)² + (P̂_l − ½)²].
    let mut start = pair(-3.0, -7.0);
    start.reference = Some(start.policy);
    start.target.probability_win = Some(0.9);
    start.target.probability_lose = Some(0.3);
    let got = evaluate(&settings(LossKind::Sppo, 0.001), &[start]).unwrap();
    close(got.loss, 0.5 * 1e6 * (0.4f64.powi(2) + 0.2f64.powi(2)));
    close(got.d_chosen[0], -400.0);
    close(got.d_rejected[0], 200.0);
    assert_eq!((got.reward_chosen[0], got.reward_rejected[0]), (0.0, 0.0));
}

#[test]
fn sppo_single_by_hand() {
    // P = ¾, β = ½: targets ½ and −½.
    let mut uneven = pair(1.5, 1.0);
    uneven.target.probability_lose = Some(0.1); // not this loss's
    check(&settings(LossKind::SppoSingle, 0.5), uneven, 1.625, 1.0, 1.5);
}

#[test]
fn gpo_by_hand_and_clamped() {
    // β = ½: targets 2 and −1. Δ = (1, 1): off by (−1, 2).
    let mut gpo = settings(LossKind::Gpo, 0.5);
    check(&gpo, pair(1.0, 1.0), 2.5, -1.0, 2.0);
    // Clamped to ±1.25: targets 1.25 and −1, off by (−0.25, 2).
    gpo.target_clamp = Some(1.25);
    check(&gpo, pair(1.0, 1.0), 0.5 * (0.0625 + 4.0), -0.25, 2.0);
}

#[test]
fn ln_gpo_by_hand() {
    // Δ/|y| = (4/4, 2/2): off as gpo's (1, 1); derivatives divided by 4 and 2; rewards on sums.
    let ln_gpo = settings(LossKind::LnGpo, 0.5);
    check(&ln_gpo, pair(4.0, 2.0), 2.5, -0.25, 1.0);
    let got = evaluate(&ln_gpo, &[pair(4.0, 2.0)]).unwrap();
    assert_eq!((got.reward_chosen[0], got.reward_rejected[0]), (2.0, 1.0));
    let normalized = LossSettings { length_normalized: true, ..settings(LossKind::Gpo, 0.5) };
    assert_eq!(evaluate(&normalized, &[pair(4.0, 2.0)]), Ok(got));
}

#[test]
fn dpo_by_hand() {
    // β·margin = ln 3: σ = ¾.
    let third = 3.0f64.ln();
    let mut dpo = settings(LossKind::Dpo, 0.5);
    check(&dpo, pair(third, -third), (4.0f64 / 3.0).ln(), -0.125, 0.125);
    // ε = 0.2: −0.8 ln ¾ − 0.2 ln ¼; slope ½(0.2·¾ − 0.8·¼).
    dpo.label_smoothing = 0.2;
    check(&dpo, pair(third, -third), 0.8 * (4.0f64 / 3.0).ln() + 0.2 * 4.0f64.ln(), -0.025, 0.025);
    // At Δ = 0 without smoothing: ln 2.
    check(&settings(LossKind::Dpo, 0.1), pair(0.0, 0.0), std::f64::consts::LN_2, -0.05, 0.05);
}

#[test]
fn ipo_by_hand() {
    // 1/(2β) = 2; margin 5: (5 − 2)².
    let ipo = settings(LossKind::Ipo, 0.25);
    check(&ipo, pair(4.0, -1.0), 9.0, 6.0, -6.0);
    // On means: 8/4 − (−6)/2 = 5.
    let normalized = LossSettings { length_normalized: true, ..ipo };
    check(&normalized, pair(8.0, -6.0), 9.0, 1.5, -3.0);
}

#[test]
fn hinge_by_hand() {
    let hinge = settings(LossKind::Hinge, 0.5);
    check(&hinge, pair(1.0, 0.0), 0.5, -0.5, 0.5);
    check(&hinge, pair(3.0, 0.0), 0.0, 0.0, 0.0);
    check(&hinge, pair(2.0, 0.0), 0.0, 0.0, 0.0);
}

#[test]
fn kto_pair_by_hand() {
    // Δ_w = (ln 3, ln 3), Δ_l = (0, −2 ln 3), β = 1: KL_w = ln 3, KL_l = max(0, −ln 3) = 0.
    // Chosen: 1 − σ(ln 3) = ¼ twice. Rejected: 1 − σ(ln 3) = ¼, 1 − σ(3 ln 3) = 1/28. Mean of four: 11/56.
    let x = 3.0f64.ln();
    let kto = settings(LossKind::KtoPair, 1.0);
    let got = evaluate(&kto, &[pair(x, 0.0), pair(x, -2.0 * x)]).unwrap();
    close(got.loss, 11.0 / 56.0);
    // σ' at ln 3 is 3/16, at 3 ln 3 it is 27/784. Through KL_w: their mean. Each over 2n = 4, signs of 1 − σ.
    let (near, far) = (3.0 / 16.0, 27.0 / 784.0);
    let through = 0.5 * (near + far);
    close(got.d_chosen[0], -0.25 * (near + through));
    close(got.d_chosen[1], -0.25 * (near + through));
    // KL_l is at its floor: nothing passes.
    close(got.d_rejected[0], 0.25 * near);
    close(got.d_rejected[1], 0.25 * far);
}

#[test]
fn kto_pair_first_step_passes_the_clamp() {
    // Δ = 0: σ' = ¼ everywhere; own term and the KL's: ½β(¼ + ¼).
    check(&settings(LossKind::KtoPair, 0.1), pair(0.0, 0.0), 0.5, -0.025, 0.025);
}

#[test]
fn simpo_by_hand() {
    // m = (−1, −2), β = 2, γ = 2 − ln 3: logit ln 3, σ(−logit) = ¼. Derivatives by sums: over 4 and 2 tokens.
    let simpo = LossSettings { simpo_gamma: 2.0 - 3.0f64.ln(), ..settings(LossKind::Simpo, 2.0) };
    let mut alone = pair(-4.0, -4.0);
    alone.reference = None;
    check(&simpo, alone, (4.0f64 / 3.0).ln(), -0.5 / 4.0, 0.5 / 2.0);
    let got = evaluate(&simpo, &[alone]).unwrap();
    assert_eq!((got.reward_chosen[0], got.reward_rejected[0]), (-2.0, -4.0));
}

#[test]
fn orpo_by_hand() {
    // e^m = (¾, ½): odds 3 and 1, logit ln 3, σ(−logit) = ¼. NLL = ln(4/3), by mean over the 4 tokens.
    // d term/d m_w = −β·¼·1/(1 − ¾) = −β; d/d m_l = β·¼·2.
    let (m_w, m_l) = (0.75f64.ln(), 0.5f64.ln());
    let mut alone = pair(4.0 * m_w, 2.0 * m_l);
    alone.reference = None;
    let nll = (4.0f64 / 3.0).ln();
    check(&settings(LossKind::Orpo, 0.1), alone, nll + 0.1 * nll, -0.25 - 0.1 / 4.0, 0.1 * 0.5 / 2.0);
}

#[test]
fn sppo_hard_by_hand() {
    // β = ½: targets ±1, whatever the row says. Δ = (1.5, 1): off by (½, 2); not halved.
    let mut bare = pair(1.5, 1.0);
    bare.target = PreferenceTarget::default();
    check(&settings(LossKind::SppoHard, 0.5), bare, 4.25, 1.0, 4.0);
}

#[test]
fn robust_by_hand() {
    // βs = ln 3, ε = 0.2: (−0.8 ln ¾ + 0.2 ln ¼)/0.6; slope −½(0.2·¾ + 0.8·¼)/0.6.
    let third = 3.0f64.ln();
    let mut robust = settings(LossKind::Robust, 0.5);
    robust.label_smoothing = 0.2;
    let want = (0.8 * (4.0f64 / 3.0).ln() - 0.2 * 4.0f64.ln()) / 0.6;
    check(&robust, pair(third, -third), want, -0.175 / 0.6, 0.175 / 0.6);
    // The mean over labels of which ε are flipped is DPO's loss.
    let turned = evaluate(&robust, &[pair(-third, third)]).unwrap().loss;
    close(0.8 * want + 0.2 * turned, (4.0f64 / 3.0).ln());
    robust.label_smoothing = 0.0;
    check(&robust, pair(third, -third), (4.0f64 / 3.0).ln(), -0.125, 0.125);
}

#[test]
fn exo_pair_by_hand() {
    // βs = ln 3: σ = ¾. ε = ¼ is the policy's own: no divergence, no slope.
    let third = 3.0f64.ln();
    let mut exo = settings(LossKind::ExoPair, 0.5);
    exo.label_smoothing = 0.25;
    let got = evaluate(&exo, &[pair(third, -third)]).unwrap();
    assert!(got.loss.abs() < 1e-15 && got.d_chosen[0].abs() < 1e-15, "{got:?}");
    // At βs = 0: ½ ln(½/¾) + ½ ln(½/¼) = ½ ln(4/3); slope ½·¼·(−ln 3).
    check(&exo, pair(0.0, 0.0), 0.5 * (4.0f64 / 3.0).ln(), -third / 8.0, third / 8.0);
    // No smoothing is a thousandth.
    let least = LossSettings { label_smoothing: 0.001, ..exo };
    exo.label_smoothing = 0.0;
    assert_eq!(evaluate(&exo, &[pair(1.0, 0.5)]), evaluate(&least, &[pair(1.0, 0.5)]));
}

#[test]
fn nca_pair_by_hand() {
    // βΔ = (ln 3, −ln 3): −ln ¾ − ½ ln ¼ − ½ ln ¾. Slopes ½(½·¾ − ¼) and ½·½·¼.
    let third = 3.0f64.ln();
    let want = 1.5 * (4.0f64 / 3.0).ln() + 0.5 * 4.0f64.ln();
    check(&settings(LossKind::NcaPair, 0.5), pair(2.0 * third, -2.0 * third), want, 0.0625, 0.0625);
}

#[test]
fn bco_pair_by_hand() {
    // βΔ = (ln 3, ln 3): −ln ¾ − ln ¼. Slopes −½·¼ and ½·¾.
    let third = 3.0f64.ln();
    let want = (4.0f64 / 3.0).ln() + 4.0f64.ln();
    check(&settings(LossKind::BcoPair, 0.5), pair(2.0 * third, 2.0 * third), want, -0.125, 0.375);
}

#[test]
fn apo_by_hand() {
    // βΔ = (ln 3, −ln 3). Zero: ¼ + ¼; slopes ∓½·3/16. Down: ¾ + 1 − σ(2 ln 3) = ¾ + 1/10; σ' is 3/16 and 9/100.
    let third = 3.0f64.ln();
    let responses = pair(2.0 * third, -2.0 * third);
    check(&settings(LossKind::ApoZero, 0.5), responses, 0.5, -0.09375, 0.09375);
    check(&settings(LossKind::ApoDown, 0.5), responses, 0.85, 0.5 * (0.1875 - 0.09), 0.045);
}

#[test]
fn dpo_norm_by_hand() {
    // Means over 4 and 2 tokens: β(Δ_w/4 − Δ_l/2) = ln 3. Slopes −½·¼ over 4 and 2; rewards on sums.
    let third = 3.0f64.ln();
    let norm = settings(LossKind::DpoNorm, 0.5);
    let responses = pair(4.0 * third, -2.0 * third);
    check(&norm, responses, (4.0f64 / 3.0).ln(), -0.125 / 4.0, 0.125 / 2.0);
    let got = evaluate(&norm, &[responses]).unwrap();
    assert_eq!((got.reward_chosen[0], got.reward_rejected[0]), (2.0 * third, -third));
    let normalized = LossSettings { length_normalized: true, ..settings(LossKind::Dpo, 0.5) };
    assert_eq!(evaluate(&normalized, &[responses]), Ok(got));
}

#[test]
fn discopop_by_hand() {
    // At s = 0: ½ ln 2 + ½. Slope β(−¼ − ln 2/(4τ) + ½(1/(2τ) − 1)), τ = 0.05.
    let slope = 0.5 * (-0.25 - 5.0 * std::f64::consts::LN_2 + 4.5);
    let start = pair(0.0, 0.0);
    check(&settings(LossKind::Discopop, 0.5), start, 0.5 * std::f64::consts::LN_2 + 0.5, slope, -slope);
    // Far on the right side the exponential form is left, far on the wrong one the logistic.
    check(
        &settings(LossKind::Discopop, 1.0),
        pair(5.0, 0.0),
        (-5.0f64).exp(),
        -(-5.0f64).exp(),
        (-5.0f64).exp(),
    );
    let far = evaluate(&settings(LossKind::Discopop, 1.0), &[pair(-50.0, 0.0)]).unwrap();
    close(far.loss, 50.0);
    close(far.d_chosen[0], -1.0);
}

#[test]
fn inpo_by_hand() {
    // h_θ = 4 − 1 = 3, h_ref = 0, h_initial = 6; ρ = ¼, 1/(2η) = 2: off by 3 − 1.5 − 2.
    let inpo = LossSettings { eta: 0.25, rho: 0.25, ..settings(LossKind::Inpo, 7.0) };
    check(&inpo, pair(4.0, 1.0), 0.25, -1.0, 1.0);
    // A reference of its own: h_ref = 2 − 1 = 1, off by 3 − 1.5 − ¾·1 − 2.
    let mut moved = pair(4.0, 1.0);
    moved.reference = Some(PairLogProbs { chosen: 2.0, rejected: 1.0 });
    check(&inpo, moved, 1.5625, -2.5, 2.5);
    // ηΔ: β is not read.
    let got = evaluate(&inpo, &[moved]).unwrap();
    assert_eq!((got.reward_chosen[0], got.reward_rejected[0]), (0.5, 0.0));
    // ρ = 0 leaves the initial policy out and is IPO with η for β.
    let without = LossSettings { rho: 0.0, ..inpo };
    assert_eq!(evaluate(&without, &[moved]), evaluate(&settings(LossKind::Ipo, 0.25), &[moved]));
    moved.initial = None;
    let error = evaluate(&inpo, &[moved]).unwrap_err();
    assert_eq!(error, LossFault::MissingInitial { pair: 0, kind: LossKind::Inpo });
}

#[test]
fn online_ipo_by_hand() {
    // P̂ = (¾, ¼), β = ¼: target 2. Margin 5: (5 − 2)².
    check(&settings(LossKind::OnlineIpo, 0.25), pair(4.0, -1.0), 9.0, 6.0, -6.0);
}

/// An unpaired response with Δ = `own`, whose prompt's other response has Δ = `other`.
fn unpaired(desirable: bool, own: f64, other: f64) -> PairInputs {
    let mut example = pair(own, other);
    example.target = PreferenceTarget { desirable: Some(desirable), ..PreferenceTarget::default() };
    example
}

#[test]
fn kto_by_hand() {
    // z₀ = max(0, (3 − 1)/2) = 1, β = ln 3: desirable Δ = 2, x = ln 3, 1 − σ = ¼; undesirable Δ = 2, x = −ln 3, 1 − σ = ¾ times 2.
    let beta = 3.0f64.ln();
    let kto = LossSettings { undesirable_weight: 2.0, ..settings(LossKind::Kto, beta) };
    let batch = [unpaired(true, 2.0, 3.0), unpaired(false, 2.0, -1.0)];
    let got = evaluate(&kto, &batch).unwrap();
    close(got.loss, 0.5 * (0.25 + 2.0 * 0.75));
    // σ′(±ln 3) = 3/16.
    close(got.d_chosen[0], -0.5 * beta * 3.0 / 16.0);
    close(got.d_chosen[1], 0.5 * 2.0 * beta * 3.0 / 16.0);
    assert_eq!(got.d_rejected, [0.0, 0.0], "z₀ has no gradient");
    close(got.reward_chosen[0], 2.0 * beta);
    // A mean below 0 is no divergence: z₀ = 0, and β(Δ − 0) = 0 gives ½.
    close(evaluate(&kto, &[unpaired(true, 0.0, -5.0)]).unwrap().loss, 0.5);
    let mut bare = batch;
    bare[1].target.desirable = None;
    let error = evaluate(&kto, &bare).unwrap_err();
    assert!(error.kind() == Kind::Input && error.to_string().contains("label"), "{error}");
    assert!(evaluate_part(&kto, &batch[..1], BatchTotals::of(&batch)).is_err());
    assert!(needs_whole_batch(LossKind::Kto) && needs_reference(LossKind::Kto));
}

#[test]
fn kto_s_derivatives_are_those_of_a_batch_with_its_baseline_held() {
    let kto = LossSettings { desirable_weight: 1.5, undesirable_weight: 0.5, ..settings(LossKind::Kto, 0.3) };
    let batch = [
        unpaired(true, 1.0, 4.0),
        unpaired(false, -2.0, 1.0),
        unpaired(false, 3.0, -1.5),
        unpaired(true, -4.0, 0.5),
    ];
    let baseline = 1.0; // (4 + 1 − 1.5 + 0.5)/4
    let plain = |deltas: &[f64]| {
        let values = deltas.iter().zip(&batch).map(|(delta, example)| {
            let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
            match example.target.desirable.unwrap() {
                true => 1.5 * (1.0 - sigma(0.3 * (delta - baseline))),
                false => 0.5 * (1.0 - sigma(0.3 * (baseline - delta))),
            }
        });
        values.sum::<f64>() / 4.0
    };
    let deltas: Vec<f64> = batch.iter().map(|example| example.policy.chosen).collect();
    let got = evaluate(&kto, &batch).unwrap();
    close(got.loss, plain(&deltas));
    for i in 0..4 {
        let at = |step: f64| {
            let mut moved = deltas.clone();
            moved[i] += step;
            plain(&moved)
        };
        let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
        assert!((slope - got.d_chosen[i]).abs() < 1e-9, "{i}: {slope} against {}", got.d_chosen[i]);
    }
}

#[test]
fn a_pair_s_weight_multiplies_its_share() {
    let mut heavy = pair(2.0, -1.0);
    heavy.target.weight = Some(2.5);
    let light = pair(-0.5, 0.75);
    for kind in losses_of_pairs().into_iter().filter(|kind| !needs_whole_batch(*kind)) {
        let settings = settings(kind, 0.5);
        let alone = |pair: PairInputs| {
            evaluate_part(&settings, &[pair], BatchTotals { pairs: 2, chosen_tokens: 8 }).unwrap()
        };
        let mut without = heavy;
        without.target.weight = None;
        let (one, weighed) = (alone(without), alone(heavy));
        if kind == LossKind::Orpo {
            continue; // Its NLL is no part of a pair's loss.
        }
        close(weighed.loss, 2.5 * one.loss);
        close(weighed.d_chosen[0], 2.5 * one.d_chosen[0]);
        close(weighed.d_rejected[0], 2.5 * one.d_rejected[0]);
        close(evaluate(&settings, &[heavy, light]).unwrap().loss, weighed.loss + alone(light).loss);
    }
}

#[test]
fn losses_without_pairs_are_none_of_pairs() {
    for kind in [LossKind::BestOfK, LossKind::Grpo, LossKind::Gprl] {
        let error = evaluate(&settings(kind, 0.1), &[pair(0.0, 0.0)]).unwrap_err();
        assert_eq!((error.kind(), error.pair()), (Kind::Defect, None));
    }
}

#[test]
fn orpo_survives_certainty() {
    let mut certain = pair(0.0, 0.0);
    certain.reference = None;
    let got = evaluate(&settings(LossKind::Orpo, 0.1), &[certain]).unwrap();
    assert!(got.loss.is_finite() && got.d_chosen[0].is_finite() && got.d_rejected[0].is_finite());
}

#[test]
fn sft_weight_adds_the_token_mean() {
    // Chosen sums −8 over 4 tokens and −2 over 6: NLL = 10/10, not the mean of 2 and ⅓.
    let plain = settings(LossKind::Dpo, 0.5);
    let with = LossSettings { sft_weight: 0.3, ..plain };
    let mut longer = pair(-2.0, -1.0);
    longer.chosen_tokens = 6;
    let pairs = [pair(-8.0, -1.0), longer];
    let (a, b) = (evaluate(&plain, &pairs).unwrap(), evaluate(&with, &pairs).unwrap());
    close(b.loss - a.loss, 0.3);
    close(b.d_chosen[1] - a.d_chosen[1], -0.03);
    assert_eq!(a.d_rejected, b.d_rejected);
}

#[test]
fn extreme_log_probs_stay_finite() {
    for kind in losses_of_pairs() {
        for (chosen, rejected) in [(-1e6, 0.0), (0.0, -1e6), (-1e6, -1e6)] {
            let got = evaluate(&settings(kind, 0.1), &[pair(chosen, rejected)]).unwrap();
            assert!(got.loss.is_finite(), "{kind}");
        }
    }
}

#[test]
fn missing_and_wrong_fields_are_named() {
    for kind in losses_of_pairs() {
        let mut bare = pair(-1.0, -2.0);
        bare.target = PreferenceTarget::default();
        let got = evaluate(&settings(kind, 0.1), &[pair(-1.0, -2.0), bare]);
        match kind.required_targets().first() {
            None => assert!(got.is_ok(), "{kind}"),
            Some(&field) => {
                let error = got.unwrap_err();
                assert_eq!(error, LossFault::MissingTarget { pair: 1, field, kind });
                assert!(error.kind() == Kind::Input && error.to_string().contains(field.row_field()));
            }
        }
    }
    let mut wrong = pair(-1.0, -2.0);
    wrong.target.probability_win = Some(1.5);
    let error = evaluate(&settings(LossKind::Sppo, 0.1), &[wrong]).unwrap_err();
    assert!(error.kind() == Kind::Input && error.to_string().contains("chosen_probs_win"), "{error}");
    wrong.target.score_lose = Some(f64::NAN);
    let error = evaluate(&settings(LossKind::Gpo, 0.1), &[wrong]).unwrap_err();
    assert!(error.kind() == Kind::Input && error.to_string().contains("chosen_score_lose"), "{error}");
}

#[test]
fn broken_numbers_name_the_pair() {
    let good = pair(-1.0, -2.0);
    let error = evaluate(&settings(LossKind::Dpo, 0.1), &[good, pair(f64::NAN, 0.0)]).unwrap_err();
    assert!(error.kind() != Kind::Input);
    assert_eq!(error.pair(), Some(1));
    let error = evaluate(&settings(LossKind::Ipo, 0.1), &[pair(1e300, -1e300)]).unwrap_err();
    assert!(matches!(error, LossFault::NotFinite { pair: 0, .. }), "{error}");
    let mut without = good;
    without.reference = None;
    for kind in losses_of_pairs() {
        assert_eq!(evaluate(&settings(kind, 0.1), &[without]).is_err(), needs_reference(kind), "{kind}");
    }
    let mut empty = good;
    empty.rejected_tokens = 0;
    assert!(evaluate(&settings(LossKind::Simpo, 0.1), &[empty]).unwrap_err().kind() == Kind::Input);
    assert!(evaluate(&settings(LossKind::Dpo, 0.1), &[empty]).is_ok());
}

#[test]
fn a_part_is_refused_only_where_the_whole_is_needed() {
    let pairs = [pair(-1.0, -2.0), pair(-3.0, -2.5)];
    let totals = BatchTotals::of(&pairs);
    for kind in losses_of_pairs() {
        let part = evaluate_part(&settings(kind, 0.1), &pairs[..1], totals);
        assert_eq!(part.is_err(), needs_whole_batch(kind), "{kind}");
    }
}

fn any_pair() -> impl Strategy<Value = PairInputs> {
    (
        prop::array::uniform6(-60.0..-0.5f64),
        (1usize..40, 1usize..40),
        [0.0..=1.0f64, 0.0..=1.0, 0.0..=1.0],
        [-5.0..5.0f64, -5.0..5.0, -5.0..5.0],
    )
        .prop_map(|(logps, (chosen_tokens, rejected_tokens), p, s)| PairInputs {
            policy: PairLogProbs { chosen: logps[0], rejected: logps[1] },
            reference: Some(PairLogProbs { chosen: logps[2], rejected: logps[3] }),
            initial: Some(PairLogProbs { chosen: logps[4], rejected: logps[5] }),
            chosen_tokens,
            rejected_tokens,
            target: PreferenceTarget {
                probability: Some(p[0]),
                probability_win: Some(p[1]),
                probability_lose: Some(p[2]),
                score: Some(s[0]),
                score_win: Some(s[1]),
                score_lose: Some(s[2]),
                ..PreferenceTarget::default()
            },
        })
}

fn any_settings() -> impl Strategy<Value = LossSettings> {
    (
        prop::sample::select(losses_of_pairs()),
        0.02..1.0f64,
        prop_oneof![Just(0.0), 0.0..0.4f64],
        any::<bool>(),
        prop_oneof![Just(0.0), 0.0..2.0f64],
        0.0..2.0f64,
        prop_oneof![Just(None), (1.0..50.0f64).prop_map(Some)],
        (0.02..1.0f64, 0.0..=1.0f64),
    )
        .prop_map(
            |(
                kind,
                beta,
                label_smoothing,
                length_normalized,
                sft_weight,
                simpo_gamma,
                target_clamp,
                (eta, rho),
            )| {
                LossSettings {
                    kind,
                    beta,
                    label_smoothing,
                    length_normalized,
                    sft_weight,
                    simpo_gamma,
                    target_clamp,
                    eta,
                    rho,
                    desirable_weight: 1.0,
                    undesirable_weight: 1.0,
                }
            },
        )
}

/// Central difference of the batch's loss by one log-prob, with the second difference as a sign of a kink within reach.
struct Numeric {
    slope: f64,
    bend: f64,
}

fn difference(settings: &LossSettings, pairs: &[PairInputs], at: impl Fn(&mut [PairInputs], f64)) -> Numeric {
    const STEP: f64 = 1e-4;
    let loss = |step: f64| {
        let mut moved = pairs.to_vec();
        at(&mut moved, step);
        evaluate(settings, &moved).unwrap().loss
    };
    let central = |step: f64| (loss(step) - loss(-step)) / (2.0 * step);
    let (left, here, right) = (loss(-STEP), loss(0.0), loss(STEP));
    // Richardson's extrapolation: discopop bends fast enough for the third derivative to show.
    let slope = (4.0 * central(STEP / 2.0) - central(STEP)) / 3.0;
    Numeric { slope, bend: ((right - here) - (here - left)).abs() / STEP }
}

/// A kink is a jump of the slope; a smooth loss's slope changes by no more than its curvature × step.
fn agrees(numeric: &Numeric, analytic: f64, scale: f64) -> bool {
    (numeric.slope - analytic).abs() <= 1e-6 * analytic.abs() + 1e-9 * scale.abs().max(1.0) + numeric.bend
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn derivatives_are_those_of_the_loss(settings in any_settings(), pairs in prop::collection::vec(any_pair(), 1..5)) {
        let got = evaluate(&settings, &pairs).unwrap();
        for i in 0..pairs.len() {
            let chosen = difference(&settings, &pairs, |pairs, step| pairs[i].policy.chosen += step);
            let rejected = difference(&settings, &pairs, |pairs, step| pairs[i].policy.rejected += step);
            prop_assert!(agrees(&chosen, got.d_chosen[i], got.loss), "{settings:?}: {} against {}", chosen.slope, got.d_chosen[i]);
            prop_assert!(agrees(&rejected, got.d_rejected[i], got.loss), "{settings:?}: {} against {}", rejected.slope, got.d_rejected[i]);
        }
    }

    #[test]
    fn parts_add_up_to_the_whole(settings in any_settings(), pairs in prop::collection::vec(any_pair(), 2..6), cut in 1usize..5) {
        prop_assume!(!needs_whole_batch(settings.kind) && cut < pairs.len());
        let totals = BatchTotals::of(&pairs);
        let whole = evaluate(&settings, &pairs).unwrap();
        let a = evaluate_part(&settings, &pairs[..cut], totals).unwrap();
        let b = evaluate_part(&settings, &pairs[cut..], totals).unwrap();
        prop_assert!((a.loss + b.loss - whole.loss).abs() <= 1e-12 * whole.loss.abs().max(1.0));
        prop_assert_eq!([a.d_chosen, b.d_chosen].concat(), whole.d_chosen);
        prop_assert_eq!([a.d_rejected, b.d_rejected].concat(), whole.d_rejected);
    }

    #[test]
    fn the_logistic_function_is_symmetric(x in -800.0..800.0f64) {
        prop_assert!((sigmoid(x) + sigmoid(-x) - 1.0).abs() < 1e-15);
        prop_assert!((log_sigmoid(x) - log_sigmoid(-x) - x).abs() <= 1e-13 * x.abs().max(1.0));
    }
}
