//! The names of the losses: one line of the table below per loss, which ties the name in recipes to the loss's file. Those without pairs
//! name what they learn from instead of an equation of pairs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The table, handed to the macro `$make`: `Variant = module`, where the module has a `FORM`.
macro_rules! losses {
    ($make:ident) => {
        $make! {
            /// Self-play preference optimisation, squared distance to the mean win probabilities.
            Sppo = sppo,
            /// SPPO with the pair's own probability in the place of the means.
            SppoSingle = sppo_single,
            /// General preference optimisation, squared distance to the mean scores.
            #[default]
            Gpo = gpo,
            /// GPO on length-normalised log-ratios.
            LnGpo = ln_gpo,
            /// Direct preference optimisation.
            Dpo = dpo,
            /// Identity preference optimisation.
            Ipo = ipo,
            /// Hinge on the reward margin (SLiC).
            Hinge = hinge,
            /// KTO over the pairs of a batch, gradient through the KL means.
            KtoPair = kto_pair,
            /// SimPO: mean log-probs, a margin, no reference.
            Simpo = simpo,
            /// ORPO: odds ratio and NLL, no reference.
            Orpo = orpo,
            /// SPPO with the targets of a certain win and a certain loss, not halved.
            SppoHard = sppo_hard,
            /// DPO, unbiased where a share of the labels is flipped.
            Robust = robust,
            /// EXO on pairs: KL from the policy's preference to the smoothed label.
            ExoPair = exo_pair,
            /// Noise contrastive alignment on pairs.
            NcaPair = nca_pair,
            /// Binary classifier optimisation on pairs, without the running mean of rewards.
            BcoPair = bco_pair,
            /// Anchored preference optimisation: the chosen response up, the rejected one down.
            ApoZero = apo_zero,
            /// Anchored preference optimisation: both responses down, the rejected one further.
            ApoDown = apo_down,
            /// DPO on log-ratios per token.
            DpoNorm = dpo_norm,
            /// DiscoPOP: logistic and exponential loss mixed by the margin.
            Discopop = discopop,
            /// INPO, COMAL and MNPO: squared distance of the margin to those of an initial and of the last policies.
            Inpo = inpo,
            /// Online IPO: squared distance of the margin to the difference of the mean win probabilities.
            OnlineIpo = online_ipo,
            /// KTO: single responses, desirable or undesirable, against the batch's KL.
            Kto = kto,
            /// Supervised fine-tuning on the best response to each prompt.
            BestOfK = best_of_k,
            /// GRPO: groups of responses, a clipped surrogate per token, advantages from the mean scores.
            Grpo = grpo,
            /// GPRL: as grpo, with advantages axis by axis of a GPM and a monitor of their drift.
            Gprl = gprl,
        }
    };
}
pub(super) use losses;

macro_rules! names {
    ($($(#[$about:meta])* $variant:ident = $module:ident,)+) => {
        /// One of the preference losses; the formulas stand at the head of each file in `loss/`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "kebab-case")]
        pub enum LossKind {
            $($(#[$about])* $variant,)+
        }

        impl LossKind {
            /// Every loss, in the contract's order.
            pub const ALL: [LossKind; [$(stringify!($variant)),+].len()] = [$(LossKind::$variant),+];
        }
    };
}

losses!(names);
